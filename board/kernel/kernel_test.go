package kernel

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestRefused(t *testing.T) {
	const final = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=64\nCONFIG_D=y\n"
	for _, tt := range []struct {
		name, fragment string
		want           []string
	}{
		{"taken", "# words\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=64\n", nil},
		{"absent counts as off", "# CONFIG_C is not set\n", nil},
		{"missing", "CONFIG_C=y\n", []string{"CONFIG_C=y"}},
		{"other value", "CONFIG_N=65\n", []string{"CONFIG_N=65"}},
		{"still on", "# CONFIG_D is not set\n", []string{"# CONFIG_D is not set"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, refused([]byte(tt.fragment), []byte(final))); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNameDependsOnInputsOnly(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	name := func(fragment string) string {
		t.Helper()
		c := Config{Arch: "x86_64", Source: source, Fragment: []byte(fragment)}
		n, err := c.name(context.Background())
		if err != nil {
			t.Skipf("no compiler: %v", err)
		}
		return n
	}
	write("one")
	first := name("# about\nCONFIG_A=y\n")
	if got := name("CONFIG_A=y"); got != first {
		t.Errorf("a comment changed the name from %s to %s", first, got)
	}
	if got := name("CONFIG_A=y\nCONFIG_B=y\n"); got == first {
		t.Error("an option did not change the name")
	}
	write("two")
	if got := name("CONFIG_A=y\n"); got == first {
		t.Error("the source archive did not change the name")
	}
}

func TestNameDependsOnPatches(t *testing.T) {
	hash := func(from fs.FS) string {
		t.Helper()
		var h strings.Builder
		if err := hashPatches(&h, from); err != nil {
			t.Fatal(err)
		}
		return h.String()
	}
	one := fstest.MapFS{"patches/a.patch": {Data: []byte("1")}}
	for what, other := range map[string]fstest.MapFS{
		"other content": {"patches/a.patch": {Data: []byte("2")}},
		"another name":  {"patches/b.patch": {Data: []byte("1")}},
		"one more":      {"patches/a.patch": {Data: []byte("1")}, "patches/b.patch": {}},
		"none":          {},
	} {
		if hash(one) == hash(other) {
			t.Errorf("%s does not change the name", what)
		}
	}
	if hash(patches) == "" {
		t.Error("the package's own patches are not in the name")
	}
}

func TestBuildFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source.tar.xz")
	if err := os.WriteFile(source, []byte("not an archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "cache")
	if k, err := Build(context.Background(), Config{Source: source, Cache: cache}); err == nil {
		t.Fatalf("Build = %+v from garbage", k)
	}
	entries, err := os.ReadDir(cache)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// TestPatchThatDoesNotFit builds from sources that are not a kernel's.
func TestPatchThatDoesNotFit(t *testing.T) {
	for _, tool := range []string{"gcc", "ld", "xz", "patch"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "linux-0")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(tree, "Makefile"), []byte("all:\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source.tar.xz")
	if out, err := exec.Command("tar", "-C", dir, "-cJf", source, "linux-0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	names, err := fs.Glob(patches, "patches/*.patch")
	if err != nil || len(names) == 0 {
		t.Fatalf("patches: %v, %v", names, err)
	}
	_, err = Build(t.Context(), Config{Source: source, Cache: filepath.Join(dir, "cache")})
	if err == nil || !strings.Contains(err.Error(), names[0]) || !strings.Contains(err.Error(), "ignored") {
		t.Errorf("Build: %v, want an error that names the patch, and what patch says", err)
	}
}
