package tufrepo

import (
	"crypto"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

type killed struct{}

// TestKilledAnywhere dies between any two steps of a publication. What clients
// see is the old repository or the new one, and the next publisher succeeds.
func TestKilledAnywhere(t *testing.T) {
	for name, tc := range map[string]struct {
		signAll bool // publish at once, or by a draft
		layout  layout
	}{
		"at once": {true, consistent}, "by a draft": {false, consistent},
		"plain": {true, plain}, "plain to consistent": {false, changing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 0; killedAt(t, at, tc.signAll, tc.layout) || at < 5; at++ {
			}
		})
	}
}

// layout is that of the repository: as we make it, as others do, and from the
// latter to the former.
type layout int

const (
	consistent layout = iota
	plain
	changing
)

// create begins a repository with a target.
func (l layout) create(file string) []Change {
	return []Change{Create(), func(e *Edit) error {
		e.root().Signed.ConsistentSnapshot = l == consistent
		return nil
	}, AddTarget(Target{Name: "old", File: file})}
}

// change is what is killed.
func (l layout) change(file string) []Change {
	changes := []Change{AddTarget(Target{Name: "dir/new", File: file})}
	if l == changing {
		changes = append([]Change{Consistent()}, changes...)
	}
	return changes
}

// killedAt says whether a publication has that many steps.
func killedAt(t *testing.T, at int, signAll bool, l layout) (died bool) {
	t.Helper()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, keys, changes := t.TempDir(), map[string]crypto.Signer{}, l.create(file)
	for _, role := range topLevel {
		keys[role] = tuftest.NewKeyOf(t, "ed25519", "ed25519")
		changes = append(changes, AddKey(role, keys[role].Public()))
	}
	all := slices.Collect(maps.Values(keys))
	apply(t, dir, func(r *Repo) { mustApply(t, r, now, all, changes...) })
	signers := all
	if !signAll {
		signers = []crypto.Signer{keys[tuf.RoleTargets]}
	}
	died = diesAt(t, dir, at, func(r *Repo) {
		mustApply(t, r, now, signers, l.change(file)...)
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

// diesAt applies f, dies after so many steps and says whether there were as many.
func diesAt(t *testing.T, dir string, at int, f func(*Repo)) (died bool) {
	t.Helper()
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
		f(r)
	})
	return died
}

// TestKilledAtBirth dies between any two steps of the first publication, of which the
// operator's state is made too. Whatever is left, the next one begins or goes on.
func TestKilledAtBirth(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
	changes := []Change{Create()}
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	for at, died := 0, true; died; at++ {
		dir := t.TempDir()
		died = diesAt(t, dir, at, func(r *Repo) { mustApply(t, r, now, []crypto.Signer{key}, changes...) })
		apply(t, dir, func(r *Repo) {
			if !Exists(dir) {
				mustApply(t, r, now, []crypto.Signer{key}, changes...)
			}
			if s := mustApply(t, r, now, []crypto.Signer{key}, Refresh(tuf.RoleTimestamp)); !s.Published {
				t.Errorf("killed at %d: %+v", at, s)
			}
			if trust, err := r.Trust(); err != nil || trust.Versions[tuf.RoleTimestamp] != 2 {
				t.Errorf("killed at %d: %+v, %v", at, trust, err)
			}
		})
	}
}

func apply(t *testing.T, dir string, f func(*Repo)) {
	t.Helper()
	r, err := Open(t.Context(), dir, Operator{State: dir + ".state"})
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
	if n := int64(report.Roles[tuf.RoleTargets].Targets); n == 0 || n > report.Roles[tuf.RoleTargets].Version+1 {
		t.Fatalf("%+v", report)
	}
}

// TestPlainLayout: what clients are told of is never replaced under them. After a
// change of the layout it can be, and devices with the old root follow.
func TestPlainLayout(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	dir, www := t.TempDir(), t.TempDir()
	file, other := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.WriteFile(file, []byte("one"), 0o644), os.WriteFile(other, []byte("two"), 0o644)); err != nil {
		t.Fatal(err)
	}
	key := tuftest.NewKeyOf(t, "ed25519", "ed25519")
	changes := plain.create(file)
	for _, role := range topLevel {
		changes = append(changes, AddKey(role, key.Public()))
	}
	all := []crypto.Signer{key}
	apply(t, dir, func(r *Repo) {
		mustApply(t, r, now, all, changes...)
		mustApply(t, r, now, all, AddTarget(Target{Name: "old", File: file})) // as it is
		_, err := r.Apply(t.Context(), now, all, AddTarget(Target{Name: "old", File: other}))
		if !errors.Is(err, ErrChange) || !strings.Contains(err.Error(), "sealboot tuf consistent") {
			t.Errorf("replaced: %v", err)
		}
		wantOldOrNew(t, dir, now)
		if err := r.Export(t.Context(), www); err != nil {
			t.Fatal(err)
		}
		mustApply(t, r, now, all, RemoveTarget("targets", "old"))
		mustApply(t, r, now, all, AddTarget(Target{Name: "old", File: other}))
		if err := r.Export(t.Context(), www); !errors.Is(err, ErrChange) { // www has missed the removal
			t.Errorf("exported over what is published there: %v", err)
		}
		mustApply(t, r, now, all, Consistent())
		if _, err := r.Apply(t.Context(), now, all, Consistent()); !errors.Is(err, ErrChange) {
			t.Errorf("consistent twice: %v", err)
		}
		mustApply(t, r, now, all, AddTarget(Target{Name: "old", File: file}))
		if err := r.Export(t.Context(), www); err != nil {
			t.Fatal(err)
		}
	})
	wantOldOrNew(t, dir, now)
	wantOldOrNew(t, www, now)
}

// TestTargetElsewhere: a role of somebody else's lists a target that is not in the
// repository. Publishing, exporting and bundling touch nothing outside.
func TestTargetElsewhere(t *testing.T) {
	for _, name := range []string{"../secret", "/etc/passwd", "a/../../secret"} {
		md := metadata.Targets(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))
		md.Signed.Targets[name] = &metadata.TargetFiles{Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
		data, err := encode(md)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decode("team", data); err == nil || !strings.Contains(err.Error(), "is not below targets") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
