package event

import (
	"errors"
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
	for name, d := range map[string]Descriptor{
		"no kind":        {Artifacts: []Artifact{kernel}},
		"unknown kind":   {Kind: "floppy", Artifacts: []Artifact{kernel}},
		"nothing to run": {Kind: KindLinux, Artifacts: []Artifact{{RoleInitrd, sumA, 1}}},
		"empty":          {Kind: KindDisk},
		"two kernels":    {Kind: KindLinux, Artifacts: []Artifact{kernel, kernel}},
		"order":          {Kind: KindLinux, Artifacts: []Artifact{{RoleInitrd, sumA, 1}, kernel}},
		"foreign role":   {Kind: KindLinux, Artifacts: []Artifact{kernel, {RoleLayer, sumA, 1}}},
		"upper case":     {Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, strings.ToUpper(sumA), 1}}},
		"no digest":      {Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, "", 1}}},
		"negative size":  {Kind: KindLinux, Artifacts: []Artifact{{RoleKernel, sumA, -1}}},
		"too many": {Kind: KindContainer, Artifacts: append([]Artifact{kernel},
			make([]Artifact, MaxArtifacts)...)},
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := d.Records(); !errors.Is(err, ErrInvalid) {
				t.Errorf("Records() = %v, %v; want ErrInvalid", r, err)
			}
		})
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
