package image

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/event"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseCustom(t *testing.T) {
	uki := `{"sealboot":{"kind":"uki","version":1,"architecture":"amd64"}}`
	with := func(member string) string { return strings.Replace(uki, `"amd64"`, `"amd64",`+member, 1) }
	oci := func(repository, digest string) string {
		return strings.Replace(with(`"oci":{"repository":"`+repository+`","digest":"`+digest+`"}`), "uki", "oci", 1)
	}
	for _, c := range []struct{ want, custom string }{ // want is empty if nothing is wrong
		{"", uki},
		{"", `{"other":1,"sealboot":{"kind":"uki","version":1,"architecture":"arm64","cmdline":"ro quiet","referenceValues":"os/1/rv"}}`},
		{"", `{"sealboot":{"kind":"linux","version":18446744073709551615,"architecture":"amd64"}}`},
		{"", strings.Replace(uki, "uki", "bundle", 1)},
		{"", oci("r.example/os", digest)},
		{"", uki + strings.Repeat(" ", maxCustom-len(uki))},
		{"at most 16384", uki + strings.Repeat(" ", maxCustom-len(uki)+1)},
		{"no member sealboot", ``},
		{"no member sealboot", `{}`},
		{"no member sealboot", `null`},
		{"its custom: json", `[]`},
		{"its custom: invalid", uki + " x"},
		{"no version", `{"sealboot":null}`},
		{"no version", `{"sealboot":{}}`},
		{"no version", strings.Replace(uki, "1", "0", 1)},
		{"cannot unmarshal", strings.Replace(uki, "1", "-1", 1)},
		{"unknown field", with(`"new":1`)},
		{"", `{"other":{"a":1,"A":2},"sealboot":{"kind":"uki","version":1,"architecture":"amd64"}}`},
		{"another case", strings.Replace(uki, "sealboot", "Sealboot", 1)},
		{"another case", strings.Replace(uki, "sealboot", "\u017fealboot", 1)},
		{"repeated", uki[:len(uki)-1] + "," + uki[1:]},
		{"repeated", uki[:len(uki)-1] + `,"SEALBOOT":{}}`},
		{"\"kind\" is called \"Kind\"", strings.Replace(uki, "kind", "Kind", 1)},
		{"repeated", with(`"version":2`)},
		{"called", with(`"VERSION":2`)},
		{"called", strings.Replace(oci("r/x", digest), "digest", "Digest", 1)},
		{"repeated", strings.Replace(oci("r/x", digest), `"digest"`, `"digest":"","digest"`, 1)},
		{"architecture", `{"sealboot":{"kind":"uki","version":1}}`},
		{"architecture", strings.Replace(uki, "amd64", `amd\n64`, 1)},
		{"kind \"exe\" is none of", strings.Replace(uki, "uki", "exe", 1)},
		{"not printable", with(`"cmdline":"a\nb"`)},
		{"not printable", with(`"referenceValues":"` + strings.Repeat("a", maxName+1) + `"`)},
		{"command line elsewhere", strings.Replace(with(`"cmdline":"a"`), "uki", "linux", 1)},
		{"do not go together", with(`"oci":{"repository":"r/x","digest":"` + digest + `"}`)},
		{"do not go together", strings.Replace(uki, "uki", "oci", 1)},
		{"registry repository", oci("nohost", digest)},
		{"registry repository", oci("r/x@y", digest)},
		{"digest \"sha256:00\"", oci("r/x", "sha256:00")},
		{"digest \"sha512", oci("r/x", strings.Replace(digest, "256", "512", 1))},
		{"digest \"sha256:x", oci("r/x", strings.Replace(digest, ":0", ":x", 1))},
		{"digest \"sha256:0123456789A", oci("r/x", "sha256:"+strings.ToUpper(digest[7:]))},
	} {
		got, err := ParseCustom([]byte(c.custom))
		if c.want == "" && (err != nil || got == nil) {
			t.Errorf("%.120s: %v", c.custom, err)
		}
		if c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.120s: %v, want %v with %q", c.custom, err, ErrInvalid, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64"}}`))
	f.Add([]byte(`{"kernel":"os/1/vmlinuz","initrd":"os/1/initrd","cmdline":"ro"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseCustom(data); err == nil && c.Validate() != nil {
			t.Fatal("parsed what is not valid")
		}
		if l, err := ParseLinux(data); err == nil && l.Kernel == "" {
			t.Fatal("a descriptor without a kernel")
		}
	})
}

// fake is a repository of targets in memory.
type fake struct {
	t      *testing.T
	files  map[string]string
	custom map[string]string
	broken string // the target that fails
	open   []*os.File
}

var errMedium = errors.New("medium error")

func (f *fake) Find(_ context.Context, name string) (*tuf.Target, error) {
	data, ok := f.files[name]
	if !ok {
		return nil, tuf.ErrNoTarget
	}
	return &tuf.Target{Name: name, Want: tuf.Want{Size: int64(len(data))}, Custom: []byte(f.custom[name])}, nil
}

func (f *fake) Download(_ context.Context, t *tuf.Target) (*os.File, error) {
	if t.Name == f.broken {
		return nil, errMedium
	}
	file, err := os.CreateTemp(f.t.TempDir(), "")
	if err != nil {
		return nil, err
	}
	f.open = append(f.open, file)
	_, err = file.WriteString(f.files[t.Name])
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	return file, err
}

func (f *fake) Provenance(t *tuf.Target) (event.Record, error) {
	if t.Name+" provenance" == f.broken {
		return event.Record{}, errMedium
	}
	return event.Record{Type: event.TypeProvenance, Name: "tuf", Detail: map[string]string{"target": t.Name}}, nil
}

func newFake(t *testing.T) *fake {
	custom := func(kind, more string) string {
		return `{"sealboot":{"kind":"` + kind + `","version":3,"architecture":"amd64"` + more + `}}`
	}
	return &fake{t: t,
		files: map[string]string{
			"k": "kernel", "i": "initrd", "uki": "PE", "oci": "",
			"linux":   `{"kernel":"k","initrd":"i","cmdline":"ro"}`,
			"broken":  `{"kernel":"k","initrd":"missing"}`,
			"garbage": `{`, "plain": "x", "foreign": "PE", "large": `{"kernel":"k"}` + strings.Repeat(" ", maxLinux),
		},
		custom: map[string]string{
			"uki": custom("uki", `,"cmdline":"quiet"`), "linux": custom("linux", ""), "broken": custom("linux", ""),
			"foreign": strings.Replace(custom("uki", ""), "amd64", "riscv64", 1),
			"garbage": custom("linux", ""), "large": custom("linux", ""),
			"oci": custom("oci", `,"oci":{"repository":"r.example/os","digest":"`+digest+`"}`),
		}}
}

func TestParseLinux(t *testing.T) {
	for content, want := range map[string]string{
		`{"kernel":"k","initrd":"i","dtb":"d","cmdline":"ro quiet"}`: "",
		`{"initrd":"i"}`:    "names no kernel",
		`{"kernel":"k\nk"}`: "target name",
		`{"kernel":"k","dtb":"` + strings.Repeat("d", maxName+1) + `"}`:        "target name",
		`{"kernel":"k","cmdline":"` + strings.Repeat("a", maxCmdline+1) + `"}`: "command line",
		`{"kernel":"k","cmdline":"a\u0000b"}`:                                  "command line",
		`{"kernel":"k","modules":"m"}`:                                         "unknown field",
		`{"kernel":"k"}{}`:                                                     "something follows",
		`{"Kernel":"k"}`:                                                       "called",
		`{"kernel":"k","kernel":"l"}`:                                          "repeated",
		``:                                                                     "EOF",
	} {
		_, err := ParseLinux([]byte(content))
		if want == "" && err != nil {
			t.Errorf("%.60s: %v", content, err)
		}
		if want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.60s: %v, want %v with %q", content, err, ErrInvalid, want)
		}
	}
}

func TestLoad(t *testing.T) {
	f := newFake(t)
	read := func(file *os.File) string {
		if file == nil {
			return ""
		}
		b, err := io.ReadAll(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, want := range map[string][]string{
		"uki":   {"uki", "quiet", "", "", "PE", ""},
		"linux": {"linux", "ro", "kernel", "initrd", "", ""},
		"oci":   {"oci", "", "", "", "", digest},
	} {
		img, err := Load(t.Context(), f, name, "amd64", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{img.Kind, img.Cmdline, read(img.Kernel), read(img.Initrd), read(img.File), ""}
		if img.OCI != nil {
			got[5] = img.OCI.Digest
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		if img.Version != 3 || img.Provenance.Detail["target"] != name {
			t.Errorf("%s: %+v", name, img)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	f := newFake(t)
	for name, want := range map[string]struct {
		err     error
		message string
	}{
		"nothing": {tuf.ErrNoTarget, ""},
		"plain":   {ErrInvalid, "no member sealboot"},
		"garbage": {ErrInvalid, "unexpected EOF"},
		"large":   {ErrInvalid, "at most 65536"},
		"broken":  {tuf.ErrNoTarget, ""},
		"foreign": {ErrInvalid, "it is for riscv64, this is amd64"},
	} {
		if _, err := Load(t.Context(), f, name, "amd64", nil); !errors.Is(err, want.err) || !strings.Contains(err.Error(), want.message) {
			t.Errorf("%s: %v, want %v with %q", name, err, want.err, want.message)
		}
	}
	for target, broken := range map[string][]string{"linux": {"linux", "k", "i", "linux provenance"}, "uki": {"uki", "uki provenance"}} {
		for _, f.broken = range broken {
			if _, err := Load(t.Context(), f, target, "amd64", nil); !errors.Is(err, errMedium) {
				t.Errorf("%s, of which %s fails: %v", target, f.broken, err)
			}
		}
	}
	for _, file := range f.open {
		if _, err := file.Stat(); err == nil {
			t.Errorf("%s was left open", file.Name())
		}
	}
}
