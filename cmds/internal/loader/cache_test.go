package loader

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// TestCacheOpenedOnce has a machine go through rounds in which the image is not to be had. It may be offline for weeks and
// must not run out of file descriptors.
func TestCacheOpenedOnce(t *testing.T) {
	m, err := New(Options{Site: new(config.Site), Console: console.New(console.Options{Out: io.Discard}), Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	first := m.fetchOptions(t.Context()).Cache
	if first == nil {
		t.Fatal("downloads are not kept")
	}
	before := openFiles(t)
	for range 50 {
		if c := m.fetchOptions(t.Context()).Cache; c != first {
			t.Fatal("each round opens the cache anew")
		}
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d files were open, and %d after 50 rounds", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// TestCacheLinks has links where a cache volume's directories would be: nothing is written where they lead.
func TestCacheLinks(t *testing.T) {
	cache, elsewhere := t.TempDir(), t.TempDir()
	for _, name := range []string{"blobs", "tuf"} {
		if err := os.Symlink(elsewhere, filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	m, err := New(Options{Site: new(config.Site), Console: console.New(console.Options{Out: &out}), Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if c := m.downloads(t.Context()); c != nil {
		t.Error("downloads are kept where a link leads")
	}
	if err := m.metadata(t.Context()).Save("root", []byte("x")); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("behind the link: %v, %v", left, err)
	}
	if !strings.Contains(out.String(), "warning") {
		t.Errorf("no warning:\n%s", &out)
	}
}
