package repo

import (
	"crypto"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/tuftest"
)

type killed struct{}

// TestKilledAnywhere dies between any two steps of a publication. What clients
// see is the old repository or the new one, and the next publisher succeeds.
func TestKilledAnywhere(t *testing.T) {
	for _, signAll := range []bool{true, false} { // publish at once, or by a draft
		for at := 0; ; at++ {
			if !killedAt(t, at, signAll) {
				if at < 5 {
					t.Fatalf("only %d steps", at)
				}
				break
			}
		}
	}
}

// killedAt says whether a publication has that many steps.
func killedAt(t *testing.T, at int, signAll bool) (died bool) {
	t.Helper()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir, keys, changes := t.TempDir(), map[string]crypto.Signer{}, []Change{Create()}
	for _, role := range topLevel {
		keys[role] = tuftest.NewKeyOf(t, "ed25519", "ed25519")
		changes = append(changes, AddKey(role, keys[role].Public()))
	}
	all := slices.Collect(maps.Values(keys))
	apply(t, dir, func(r *Repo) { mustApply(t, r, now, all, changes...) })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	signers := all
	if !signAll {
		signers = []crypto.Signer{keys[tuf.RoleTargets]}
	}
	apply(t, dir, func(r *Repo) {
		left := at
		r.step = func() {
			if left == 0 {
				panic(killed{})
			}
			left--
		}
		defer func() {
			if v := recover(); v != nil {
				if _, ok := v.(killed); !ok {
					panic(v)
				}
				died = true
			}
		}()
		mustApply(t, r, now, signers, AddTarget(Target{Name: "new", File: file}))
		mustApply(t, r, now, all) // sign the draft
	})
	wantOldOrNew(t, dir, now)
	apply(t, dir, func(r *Repo) {
		s := mustApply(t, r, now, all, AddTarget(Target{Name: "newer", File: file}))
		if !s.Published {
			t.Fatalf("killed at %d: the next publication: %+v", at, s)
		}
	})
	wantOldOrNew(t, dir, now)
	return died
}

func apply(t *testing.T, dir string, f func(*Repo)) {
	t.Helper()
	r, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f(r)
}

func mustApply(t *testing.T, r *Repo, now time.Time, keys []crypto.Signer, changes ...Change) Status {
	t.Helper()
	s, err := r.Apply(t.Context(), now, keys, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantOldOrNew(t *testing.T, dir string, now time.Time) {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "metadata", "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := Verify(t.Context(), dir, root, now)
	if err != nil {
		t.Fatal(err)
	}
	if int64(report[tuf.RoleTargets].Targets) > report[tuf.RoleTargets].Version {
		t.Fatalf("%+v", report)
	}
}
