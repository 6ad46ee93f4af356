package tufrepo

import (
	"bytes"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
)

const secret = "the key of the operator"

// TestDirectoryExchanged: what the owner of the directory puts in the place of its metadata,
// once that was verified, is not read by way of a link: a directory of the operator's was
// published as metadata while he was asked, or while an image was copied.
func TestDirectoryExchanged(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, act := range map[string]func(r *Repo, all []crypto.Signer, www string) error{
		"export": func(r *Repo, _ []crypto.Signer, www string) error { return r.Export(t.Context(), www) },
		"publish": func(r *Repo, all []crypto.Signer, _ string) error {
			_, err := r.Apply(t.Context(), now, all, Refresh("timestamp"))
			return err
		},
		"bundle": func(r *Repo, all []crypto.Signer, www string) error {
			_, err := r.BundleFile(t.Context(), now, Bundle{Lifetime: time.Hour, Keys: all}, filepath.Join(www, "bundle.tar"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, www, outside := t.TempDir(), t.TempDir(), t.TempDir()
			image := filepath.Join(t.TempDir(), "image")
			err := errors.Join(os.WriteFile(image, []byte("an image"), 0o644),
				os.WriteFile(filepath.Join(outside, "id_ed25519"), []byte(secret), 0o600),
				os.WriteFile(filepath.Join(outside, "auth.json"), []byte(secret), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
			all := []crypto.Signer{key}
			changes := []Change{Create()}
			for _, role := range topLevel {
				changes = append(changes, AddKey(role, key.Public()))
			}
			changes = append(changes, AddTarget(Target{Name: "os", File: image}))
			apply(t, dir, func(r *Repo) { mustApply(t, r, now, all, changes...) })
			apply(t, dir, func(r *Repo) {
				exchanged := false
				attack := func() {
					if !exchanged {
						exchanged = true
						metadata := filepath.Join(dir, "metadata")
						if err := errors.Join(os.Rename(metadata, metadata+".old"), os.Symlink(outside, metadata)); err != nil {
							t.Error(err)
						}
					}
				}
				if name == "export" {
					r.step = attack
				} else {
					r.operator.Confirm = func(Diff) error { attack(); return nil }
				}
				if err := act(r, all, www); err == nil || !exchanged {
					t.Errorf("exchanged: %t; no error", exchanged)
				}
			})
			for _, tree := range []string{dir, www} {
				err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
					if err == nil && e.Type().IsRegular() {
						var data []byte
						data, err = os.ReadFile(path)
						if bytes.Contains(data, []byte(secret)) {
							t.Errorf("%s has it", path)
						}
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestExportOverWreck: what is broken at the destination does not end all exports.
func TestExportOverWreck(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir, www := t.TempDir(), t.TempDir()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
	all := []crypto.Signer{key}
	changes := plain.create(file)
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	apply(t, dir, func(r *Repo) {
		mustApply(t, r, now, all, changes...)
		wreck := func() {
			if err := errors.Join(r.Export(t.Context(), www), os.WriteFile(filepath.Join(www, "metadata", "99.targets.json"), []byte("{"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		wreck()
		mustApply(t, r, now, all, AddTarget(Target{Name: "second", File: file}))
		if err := r.Export(t.Context(), www); err == nil || !strings.Contains(err.Error(), "remove what is broken there") {
			t.Errorf("a plain layout: %v", err)
		}
		if err := os.Remove(filepath.Join(www, "metadata", "99.targets.json")); err != nil {
			t.Fatal(err)
		}
		// The directory itself is read as clients read it: a stray file ends nothing.
		if err := os.WriteFile(filepath.Join(dir, "metadata", "99.targets.json"), []byte("{"), 0o644); err != nil {
			t.Fatal(err)
		}
		mustApply(t, r, now, all, AddTarget(Target{Name: "new", File: file}))
		if err := os.Remove(filepath.Join(dir, "metadata", "99.targets.json")); err != nil {
			t.Fatal(err)
		}
		mustApply(t, r, now, all, Consistent())
		wreck()
		mustApply(t, r, now, all, AddTarget(Target{Name: "third", File: file}))
		if err := r.Export(t.Context(), www); err != nil {
			t.Errorf("consistent snapshots: %v", err)
		}
		if _, err := os.Stat(filepath.Join(www, "metadata", "99.targets.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the wreck: %v", err)
		}
	})
	wantOldOrNew(t, www, now)
}

// TestExportMends: a target that was changed at the destination is copied anew, however
// new it looks there.
func TestExportMends(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir, www := t.TempDir(), t.TempDir()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
	changes := consistent.create(file)
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	apply(t, dir, func(r *Repo) {
		mustApply(t, r, now, []crypto.Signer{key}, changes...)
		if err := r.Export(t.Context(), www); err != nil {
			t.Fatal(err)
		}
		copies, err := filepath.Glob(filepath.Join(www, "targets", "*.old"))
		if err != nil || len(copies) != 1 {
			t.Fatal(copies, err)
		}
		late := time.Now().Add(time.Hour)
		if err := errors.Join(os.WriteFile(copies[0], []byte("two"), 0o644), os.Chtimes(copies[0], late, late)); err != nil {
			t.Fatal(err)
		}
		if err := r.Export(t.Context(), www); err != nil {
			t.Fatal(err)
		}
	})
	wantOldOrNew(t, www, now)
}
