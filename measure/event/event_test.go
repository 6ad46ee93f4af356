package event

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/measure/golden"
)

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestDescriptorRecordsGolden(t *testing.T) {
	for _, d := range []Descriptor{
		{Kind: KindLinux, Artifacts: []Artifact{
			{RoleKernel, sumA, 8 << 20}, {RoleInitrd, sumB, 0}, {RoleCmdline, sumA, 17}, {RoleDTB, sumB, 5}}},
		{Kind: KindUKI, Artifacts: []Artifact{{RoleUKI, sumA, 30 << 20}, {RoleCmdline, sumB, 3}}},
		{Kind: KindContainer, Artifacts: []Artifact{
			{RoleKernel, sumA, 1}, {RoleCmdline, sumA, 2}, {RoleLayer, sumA, 3}, {RoleLayer, sumB, 4}}},
		{Kind: KindDisk, Artifacts: []Artifact{{RoleVerityRoot, sumA, 32}, {RoleKernel, sumA, 1}}},
	} {
		t.Run(d.Kind, func(t *testing.T) {
			b, err := d.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			records, err := d.Records()
			if err != nil {
				t.Fatal(err)
			}
			out := string(b) + "\n"
			for _, r := range records {
				rb, err := r.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				out += string(rb) + "\n"
			}
			golden.Check(t, "testdata/"+d.Kind+".golden", out)

			back, err := DescriptorOf(records)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, back); diff != "" {
				t.Errorf("DescriptorOf (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDescriptorInvalid(t *testing.T) {
	kernel := Artifact{RoleKernel, sumA, 1}
	layers := func(n int) Descriptor {
		return Descriptor{Kind: KindContainer, Artifacts: append([]Artifact{kernel}, slices.Repeat([]Artifact{{RoleLayer, sumA, 1}}, n-1)...)}
	}
	for name, c := range map[string]struct {
		d    Descriptor
		want string // empty if nothing is wrong
	}{
		"no kind":        {Descriptor{Artifacts: []Artifact{kernel}}, "unknown kind of image \"\""},
		"unknown kind":   {Descriptor{Kind: "floppy", Artifacts: []Artifact{kernel}}, "unknown kind of image \"floppy\""},
		"nothing to run": {Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleInitrd, sumA, 1}}}, "linux image"},
		"empty":          {Descriptor{Kind: KindDisk}, "disk image"},
		"two kernels":    {Descriptor{Kind: KindLinux, Artifacts: []Artifact{kernel, kernel}}, "two artifacts \"kernel\""},
		"order":          {Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleInitrd, sumA, 1}, kernel}}, "out of order"},
		"foreign role":   {Descriptor{Kind: KindLinux, Artifacts: []Artifact{kernel, {RoleLayer, sumA, 1}}}, "has no \"layer\""},
		"upper case":     {Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, strings.ToUpper(sumA), 1}}}, "lower-case hex digits"},
		"no digest":      {Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, "", 1}}}, "lower-case hex digits"},
		"negative size":  {Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, sumA, -1}}}, "is negative"},
		"many":           {layers(MaxArtifacts), ""},
		"too many":       {layers(MaxArtifacts + 1), "513 artifacts"},
	} {
		r, err := c.d.Records()
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d records, %v, want %v with %q", name, len(r), err, ErrInvalid, c.want)
		}
	}
}

func TestDescriptorOfRefusesOtherRecords(t *testing.T) {
	d := Descriptor{Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, sumA, 1}, {RoleCmdline, sumB, 2}}}
	for name, change := range map[string]func([]Record) []Record{
		"missing artifact": func(r []Record) []Record { return r[:2] },
		"no descriptor":    func(r []Record) []Record { return r[1:] },
		"nothing":          func([]Record) []Record { return nil },
		"cap added":        func(r []Record) []Record { return append(r, CapRecord()) },
		"other digest":     func(r []Record) []Record { r[2].SHA256 = sumA; return r },
		"other type":       func(r []Record) []Record { r[2].Type = TypeProvenance; return r },
		"detail added":     func(r []Record) []Record { r[1].Detail = map[string]string{"a": "b"}; return r },
	} {
		t.Run(name, func(t *testing.T) {
			records, err := d.Records()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := DescriptorOf(change(records)); !errors.Is(err, ErrInvalid) {
				t.Errorf("DescriptorOf() error = %v; want ErrInvalid", err)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	for _, tc := range []struct {
		name string
		rec  Record
		want string // "" means ErrInvalid
	}{
		{"cap", CapRecord(), `{"type":"cap"}`},
		{"field order, sorted detail, no HTML escaping",
			Record{Type: TypeProvenance, Name: "oci", SHA256: sumA, Size: 7, Detail: map[string]string{"b": "<&>", "a": "é"}},
			`{"type":"provenance","name":"oci","sha256":"` + sumA + `","size":7,"detail":{"a":"é","b":"<&>"}}`},
		{"no type", Record{}, ""},
		{"type is no token", Record{Type: "Boot Descriptor"}, ""},
		{"name is no token", Record{Type: TypeArtifact, Name: "ker\nnel"}, ""},
		{"long name", Record{Type: TypeArtifact, Name: strings.Repeat("a", 65)}, ""},
		{"short digest", Record{Type: TypeArtifact, SHA256: "abc"}, ""},
		{"negative size", Record{Type: TypeArtifact, Size: -1}, ""},
		{"not UTF-8", Record{Type: TypeFailed, Detail: map[string]string{"a": "\xff"}}, ""},
		{"too long", Record{Type: TypeFailed, Detail: map[string]string{"a": strings.Repeat("a", MaxRecordSize)}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.rec.Marshal()
			if (tc.want == "") != errors.Is(err, ErrInvalid) || string(got) != tc.want {
				t.Fatalf("Marshal() = %s, %v; want %s", got, err, tc.want)
			}
			if tc.want == "" {
				return
			}
			back, err := Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.rec, back); diff != "" {
				t.Errorf("Parse (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefusesOtherEncodings(t *testing.T) {
	for _, s := range []string{
		``, `null`, `{}`, `[]`,
		`{"type":"cap"} `,
		`{"type": "cap"}`,
		`{"type":"cap","size":0}`,
		`{"type":"cap","detail":{}}`,
		`{"type":"cap","type":"cap"}`,
		`{"Type":"cap"}`,
		`{"type":"cap","more":1}`,
		`{"size":1,"type":"cap"}`,
		`{"type":"c\u0061p"}`,
		`{"type":"cap","detail":{"b":"","a":""}}`,
		`{"type":"cap"}{"type":"cap"}`,
		`{"type":"cap","size":1e0}`,
		`{"type":"cap","detail":{"a":"` + strings.Repeat("a", MaxRecordSize) + `"}}`,
	} {
		if r, err := Parse([]byte(s)); !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse(%.80s) = %v, %v; want ErrInvalid", s, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"cap"}`))
	f.Add([]byte(`{"type":"artifact","name":"kernel","sha256":"` + sumA + `","size":7}`))
	f.Add([]byte(`{"type":"failed","detail":{"step":"attest","why":"\u2028<"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || string(again) != string(b) {
			t.Errorf("Marshal(Parse(%q)) = %q, %v", b, again, err)
		}
	})
}
