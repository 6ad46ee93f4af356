package image

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/measure/event"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseCustom(t *testing.T) {
	for custom, ok := range map[string]bool{
		`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64"}}`:                                                               true,
		`{"other":1,"sealboot":{"kind":"uki","version":1,"architecture":"arm64","cmdline":"ro quiet","referenceValues":"os/1/rv"}}`:    true,
		`{"sealboot":{"kind":"linux","version":18446744073709551615,"architecture":"amd64"}}`:                                          true,
		`{"sealboot":{"kind":"bundle","version":1,"architecture":"amd64"}}`:                                                            true,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64","oci":{"repository":"r.example/os","digest":"` + digest + `"}}}`: true,
		``:                  false,
		`{}`:                false,
		`null`:              false,
		`[]`:                false,
		`{"sealboot":null}`: false,
		`{"sealboot":{}}`:   false,
		`{"sealboot":{"kind":"uki","version":0,"architecture":"amd64"}}`:                                                                       false,
		`{"sealboot":{"kind":"uki","version":-1,"architecture":"amd64"}}`:                                                                      false,
		`{"sealboot":{"kind":"uki","version":1}}`:                                                                                              false,
		`{"sealboot":{"kind":"exe","version":1,"architecture":"amd64"}}`:                                                                       false,
		`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64","new":1}}`:                                                               false,
		`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64","cmdline":"a\nb"}}`:                                                      false,
		`{"sealboot":{"kind":"linux","version":1,"architecture":"amd64","cmdline":"a"}}`:                                                       false,
		`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64","oci":{"repository":"r/x","digest":"` + digest + `"}}}`:                  false,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64"}}`:                                                                       false,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64","oci":{"repository":"nohost","digest":"` + digest + `"}}}`:               false,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64","oci":{"repository":"r/x@y","digest":"` + digest + `"}}}`:                false,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64","oci":{"repository":"r/x","digest":"sha256:00"}}}`:                       false,
		`{"sealboot":{"kind":"oci","version":1,"architecture":"amd64","oci":{"repository":"r/x","digest":"` + strings.ToUpper(digest) + `"}}}`: false,
		`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64"}} x`:                                                                     false,
		`{"x":"` + strings.Repeat("x", maxCustom) + `"}`:                                                                                       false,
	} {
		c, err := ParseCustom([]byte(custom))
		if (err == nil) != ok {
			t.Errorf("%.120s: %v", custom, err)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.120s: %v is not ErrInvalid", custom, err)
		}
		if ok && c == nil {
			t.Errorf("%.120s: nothing", custom)
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
	open   []*os.File
}

func (f *fake) Find(_ context.Context, name string) (*tuf.Target, error) {
	data, ok := f.files[name]
	if !ok {
		return nil, tuf.ErrNoTarget
	}
	return &tuf.Target{Name: name, Want: tuf.Want{Size: int64(len(data))}, Custom: []byte(f.custom[name])}, nil
}

func (f *fake) Download(_ context.Context, t *tuf.Target) (*os.File, error) {
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
			"garbage": `{`, "plain": "x", "large": strings.Repeat(" ", maxLinux+1),
		},
		custom: map[string]string{
			"uki": custom("uki", `,"cmdline":"quiet"`), "linux": custom("linux", ""), "broken": custom("linux", ""),
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
		img, err := Load(t.Context(), f, name, "amd64")
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
	for name, want := range map[string]error{
		"nothing": tuf.ErrNoTarget, "plain": ErrInvalid, "garbage": ErrInvalid, "large": ErrInvalid, "broken": tuf.ErrNoTarget,
	} {
		if _, err := Load(t.Context(), f, name, "amd64"); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Load(t.Context(), f, "uki", "riscv64"); !errors.Is(err, ErrInvalid) {
		t.Errorf("another architecture: %v", err)
	}
	for _, file := range f.open {
		if _, err := file.Stat(); err == nil {
			t.Errorf("%s was left open", file.Name())
		}
	}
}
