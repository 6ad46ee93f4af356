package tufrepo_test

import (
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/strict"
)

// TestStateRefused: a state that somebody else could have written, or that is not
// whole, is not one without memory.
func TestStateRefused(t *testing.T) {
	f := newFixture(t)
	state := f.dir + ".state"
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(f.dir, link); err != nil {
		t.Fatal(err)
	}
	open := func(state string) error {
		r, err := tufrepo.Open(t.Context(), f.dir, tufrepo.Operator{State: state})
		if err == nil {
			r.Close()
		}
		return err
	}
	for _, inside := range []string{f.dir, filepath.Join(f.dir, ".state"), filepath.Join(f.dir, "metadata", "a", "b"), filepath.Join(link, "x")} {
		if err := open(inside); err == nil || !strings.Contains(err.Error(), "lies in the repository") {
			t.Errorf("%s: %v", inside, err)
		}
	}
	if err := open(""); err == nil {
		t.Error("no directory at all")
	}
	if err := os.Chmod(state, 0o770); err != nil {
		t.Fatal(err)
	}
	if err := open(state); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("writable by others: %v", err)
	}
	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // only root can give a directory away
		if err := os.Chown(state, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := open(state); err == nil || !strings.Contains(err.Error(), "belongs to another user (12345)") {
			t.Errorf("of another user: %v", err)
		}
		if err := os.Chown(state, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	for _, content := range []string{"", "{", `{"Seen":{"RootVersion":1}}`, `{"Unknown":1}`} {
		if err := os.WriteFile(filepath.Join(state, "trust.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(state); err == nil || !strings.Contains(err.Error(), "begin anew with \"sealboot tuf trust\"") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "trust.json"), []byte(`{"version":2,"Newer":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(state); !errors.Is(err, strict.ErrNewer) || strings.Contains(err.Error(), "begin anew") {
		t.Errorf("the state of a newer program: %v", err)
	}
}

// TestSealOfAnotherBundle: no operator seals a bundle that does not verify from his own
// root, that is older than what he has seen, or whose seal says something else.
func TestSealOfAnotherBundle(t *testing.T) {
	f, stranger := newFixture(t), newFixture(t)
	write := func(f *fixture) string {
		r := f.open()
		defer r.Close()
		path := filepath.Join(t.TempDir(), "stick.tar")
		if _, err := r.BundleFile(t.Context(), start, tufrepo.Bundle{Lifetime: time.Hour}, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	older, foreign := write(f), write(stranger)
	f.publish(start, f.all(), tufrepo.Refresh("timestamp"))
	swapped := t.TempDir()
	v := &vandal{t: t, f: f}
	v.copy(filepath.Join(swapped, "metadata"), filepath.Join(f.dir, "metadata"))
	sealed, err := os.ReadFile(unpack(t, older, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	v.must(os.WriteFile(filepath.Join(swapped, "bundle.json"), sealed, 0o644))
	r := f.open()
	defer r.Close()
	for path, want := range map[string]error{older: tuf.ErrRollback, foreign: tufrepo.ErrTampered, swapped: tuf.ErrUnverified} {
		if _, err := r.Seal(t.Context(), path, []crypto.Signer{f.keys["targets"]}); !errors.Is(err, want) || !errors.Is(err, tufrepo.ErrTampered) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
