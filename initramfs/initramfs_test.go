package initramfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"
)

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func TestOptionsRefused(t *testing.T) {
	good := func() Options {
		return Options{Source: ".", Commands: []string{"./a", "example.org/b"}, Uinit: "a"}
	}
	if o := good(); o.check() != nil {
		t.Fatalf("good options refused: %v", o.check())
	}
	for name, change := range map[string]func(*Options){
		"no source":       func(o *Options) { o.Source = "" },
		"same names":      func(o *Options) { o.Commands = append(o.Commands, "x/a") },
		"a second init":   func(o *Options) { o.Commands = append(o.Commands, "x/init") },
		"foreign uinit":   func(o *Options) { o.Uinit = "c" },
		"init as uinit":   func(o *Options) { o.Uinit = "init" },
		"absolute file":   func(o *Options) { o.Files = map[string][]byte{"/etc/a": nil} },
		"file outside":    func(o *Options) { o.Files = map[string][]byte{"../a": nil} },
		"file not clean":  func(o *Options) { o.Files = map[string][]byte{"etc//a": nil} },
		"long version":    func(o *Options) { o.Version = strings.Repeat("1", 65) },
		"hostile version": func(o *Options) { o.Version = "v1\n" },
		"file for a name": func(o *Options) { o.Files = map[string][]byte{"etc/": nil} },
	} {
		o := good()
		change(&o)
		if _, err := Build(context.Background(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: error %v, want ErrOptions", name, err)
		}
	}
}

func TestArchive(t *testing.T) {
	o := Options{Source: ".", Commands: []string{"./a", "example.org/b"}, Uinit: "a", Version: "v1.2.0", Files: map[string][]byte{"etc/x/f": []byte("text")}}
	archive, err := o.archive([]byte("binary"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := o.archive([]byte("binary"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(archive, again) {
		t.Error("two archives of the same input differ")
	}
	r := cpio.Newc.Reader(bytes.NewReader(archive))
	records, err := cpio.ReadAllRecords(r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var order []string
	for _, rec := range records {
		if rec.MTime != 0 || rec.UID != 0 || rec.GID != 0 {
			t.Errorf("%s: time %d, owner %d:%d; want 0", rec.Name, rec.MTime, rec.UID, rec.GID)
		}
		order = append(order, rec.Name)
		if rec.Mode&cpio.S_IFMT != cpio.S_IFDIR {
			b, err := io.ReadAll(io.NewSectionReader(rec.ReaderAt, 0, int64(rec.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			got[rec.Name] = string(b)
		}
	}
	if !slices.IsSorted(order) {
		t.Errorf("names are not sorted: %q", order)
	}
	want := map[string]string{
		"init": "bbin/init", "bbin/bb": "binary", "bbin/init": "bb", "bbin/a": "bb", "bbin/b": "bb", "bbin/uinit": "a", "etc/x/f": "text",
		"etc/sealboot/version": "v1.2.0\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}

	o.Files = map[string][]byte{"bbin/bb": nil}
	if _, err := o.archive(nil); !errors.Is(err, ErrOptions) {
		t.Errorf("a file in place of the busybox: error %v, want ErrOptions", err)
	}
}

func TestCompressIsReadableByTheKernel(t *testing.T) {
	need(t, "xz")
	t.Setenv("XZ_DEFAULTS", "--check=sha256")
	packed, err := compress(context.Background(), bytes.Repeat([]byte("sealboot"), 1<<12))
	if err != nil {
		t.Fatal(err)
	}
	const streamHeader = "\xfd7zXZ\x00\x00\x01" // the last byte says CRC32
	if !bytes.HasPrefix(packed, []byte(streamHeader)) {
		t.Errorf("begins with % x, want % x", packed[:8], streamHeader)
	}
}

// TestBuildIsReproducible builds the harness's guest from two directories.
func TestBuildIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles twice")
	}
	need(t, "xz")
	moved := filepath.Join(t.TempDir(), "elsewhere")
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(source, moved); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for _, dir := range []string{source, moved} {
		got, err := Build(t.Context(), Options{Source: dir, Commands: []string{"./qemu/guest"}, Uinit: "guest"})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = got
		} else if !bytes.Equal(first, got) {
			t.Errorf("built from %s: %d bytes that differ from the %d built from %s", dir, len(got), len(first), source)
		}
	}
}

// TestFirmwareLinksNoServer pins what the loader's commands must not contain:
// code that only servers and operators' tools need, and their attack surface.
func TestFirmwareLinksNoServer(t *testing.T) {
	const module = "github.com/sealboot/sealboot/"
	banned := []string{
		"database/sql", "html/template", "text/template", "net/http/pprof", "expvar", "testing",
		"github.com/spf13/", "modernc.org/", "github.com/jackc/", "github.com/prometheus/",
		module + "attest/server", module + "attest/store", module + "attest/verify", module + "qemu", module + "initramfs",
	}
	for _, name := range firmwareCommands {
		cmd := exec.Command("go", "list", "-deps", "./cmds/"+name)
		cmd.Dir = ".."
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, b := range banned {
				if dep == b || strings.HasPrefix(dep, strings.TrimSuffix(b, "/")+"/") {
					t.Errorf("%s links %s", name, dep)
				}
			}
		}
	}
}
