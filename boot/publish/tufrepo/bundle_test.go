package tufrepo_test

import (
	"bytes"
	"crypto"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

func TestBundleOutlivesTheTimestamp(t *testing.T) {
	f := newFixture(t)
	f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "a", File: f.file("first")}), tufrepo.AddTarget(tufrepo.Target{Name: "b", File: f.file("second")}))
	r := f.open()
	defer r.Close()
	b := tufrepo.Bundle{Lifetime: 60 * 24 * time.Hour, Targets: []string{"a"}, Keys: []crypto.Signer{f.keys["targets"]}}
	var tarball bytes.Buffer
	if missing, err := r.Bundle(t.Context(), start, b, &tarball); err != nil || missing.Need != 0 {
		t.Fatal(missing, err)
	}
	path := f.file(tarball.String())
	late := start.AddDate(0, 0, 50)
	if err := f.boot(path, late, "a"); err != nil {
		t.Errorf("after 50 days: %v", err)
	}
	if err := f.boot(path, late, "b"); !errors.Is(err, tuf.ErrNotFound) {
		t.Errorf("a target that was not taken along: %v", err)
	}
	if err := f.boot(path, start.AddDate(0, 0, 61), "a"); !errors.Is(err, tuf.ErrExpired) {
		t.Errorf("after 61 days: %v", err)
	}
	b.Keys = []crypto.Signer{f.keys["timestamp"]}
	if _, err := r.Bundle(t.Context(), start, b, io.Discard); !errors.Is(err, tufrepo.ErrChange) {
		t.Error("a seal of the wrong key")
	}
}

// TestBundleOfExchangedTarget: what goes into a bundle is what was compared with the
// signed digest, also when the file was exchanged while the operator made up his mind.
func TestBundleOfExchangedTarget(t *testing.T) {
	for name, content := range map[string]string{"another content": "FIRST", "shorter": "x", "longer": "first and more"} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "a", File: f.file("first")}))
			targets, err := filepath.Glob(filepath.Join(f.dir, bundle.TargetsDir, "*a"))
			if err != nil || len(targets) != 1 {
				t.Fatal(targets, err)
			}
			exchange := func(tufrepo.Diff) error { return os.WriteFile(targets[0], []byte(content), 0o644) }
			r, err := tufrepo.Open(t.Context(), f.dir, tufrepo.Operator{State: f.dir + ".state", Confirm: exchange})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			b := tufrepo.Bundle{Lifetime: time.Hour, Keys: []crypto.Signer{f.keys["targets"]}}
			out := filepath.Join(t.TempDir(), "bundle.tar")
			if _, err := r.BundleFile(t.Context(), start, b, out); !errors.Is(err, tuf.ErrMismatch) {
				t.Errorf("error %v, want ErrMismatch", err)
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a bundle: %v", err)
			}
		})
	}
}

// boot is what a device does with a bundle.
func (f *fixture) boot(path string, now time.Time, name string) error {
	f.t.Helper()
	b, err := bundle.Open(f.t.Context(), path, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	c, err := tuf.New(tuf.Config{TrustedRoot: f.rootFile(), Store: &store.Memory{}, Now: now, Repositories: []tuf.Repository{b}, Targets: b})
	if err != nil {
		return err
	}
	if err := c.Refresh(f.t.Context()); err != nil {
		return err
	}
	target, err := c.Find(f.t.Context(), name)
	if err != nil {
		return err
	}
	file, err := c.Download(f.t.Context(), target)
	if err != nil {
		return err
	}
	return file.Close()
}

// unpack makes a directory of a tar, and returns the path of something in it.
func unpack(t *testing.T, path string, name ...string) string {
	t.Helper()
	directory := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", directory, "-xf", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(append([]string{directory}, name...)...)
}

// TestSealInTwoPlaces: the keys of the targets role are kept apart. Each signs
// the seal in its place, in the tar or in a directory of it.
func TestSealInTwoPlaces(t *testing.T) {
	f := newFixture(t)
	far := tuftest.NewKey(t)
	f.publish(start, append(f.all(), far), tufrepo.AddKey("targets", far.Public()), tufrepo.SetThreshold("targets", 2),
		tufrepo.AddTarget(tufrepo.Target{Name: "os", File: f.file("content")}))
	r := f.open()
	defer r.Close()
	path := filepath.Join(t.TempDir(), "stick.tar")
	b := tufrepo.Bundle{Lifetime: 24 * time.Hour, Keys: []crypto.Signer{f.keys["targets"]}}
	missing, err := r.BundleFile(t.Context(), start, b, path)
	if err != nil || missing.Need != 1 || len(missing.Keys) != 1 {
		t.Fatalf("%+v, %v", missing, err)
	}
	if err := f.boot(path, start, "os"); !errors.Is(err, tuf.ErrUnverified) {
		t.Fatalf("with half of its seal: %v", err)
	}
	directory := unpack(t, path)
	for _, place := range []string{path, directory} {
		if _, err := r.Seal(t.Context(), place, []crypto.Signer{f.keys["snapshot"]}); !errors.Is(err, tufrepo.ErrChange) {
			t.Errorf("a key of another role: %v", err)
		}
		for _, keys := range [][]crypto.Signer{nil, {f.keys["targets"]}} { // to look, and once more
			if seal, err := r.Seal(t.Context(), place, keys); err != nil || seal.Missing.Need != 1 {
				t.Errorf("%+v, %v", seal, err)
			}
		}
		seal, err := r.Seal(t.Context(), place, []crypto.Signer{f.keys["snapshot"], far})
		if err != nil || seal.Missing.Need != 0 || !seal.Expires.Equal(start.Add(b.Lifetime)) || seal.Timestamp != 2 {
			t.Errorf("%+v, %v", seal, err)
		}
		if err := f.boot(place, start, "os"); err != nil {
			t.Errorf("sealed by both: %v", err)
		}
	}
	if _, err := r.Seal(t.Context(), f.dir, nil); !errors.Is(err, tuf.ErrNotFound) {
		t.Errorf("a directory without a seal: %v", err)
	}
}
