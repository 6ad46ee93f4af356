package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestBundles: which bundles a medium has, and what looking for them costs if it is full of other names.
func TestBundles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.tar", "a/" + bundle.SealFile, "c/other", "notes.txt", bundle.SealFile} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b.tar", filepath.Join(dir, "link.tar")); err != nil {
		t.Fatal(err)
	}
	got, err := bundles(t.Context(), survey.NewBudget(), dir)
	if want := []string{dir, filepath.Join(dir, "a"), filepath.Join(dir, "b.tar")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}

	many := t.TempDir()
	for i := range 1 << 13 {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("%0200d.tar", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	heaptest.Bound{Fixed: 2 << 20}.Total(t, "tar files in a directory", 0, func() {
		if _, err := bundles(t.Context(), survey.NewBudget(), many); !errors.Is(err, survey.ErrTooMuch) {
			t.Errorf("8,192 tar files: %v", err)
		}
	})
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := bundles(done, survey.NewBudget(), dir); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: %v", err)
	}
}
