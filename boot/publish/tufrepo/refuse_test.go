package tufrepo_test

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
)

// wantRefused fails the test unless err is target and says message.
func wantRefused(t *testing.T, err, target error, message string) {
	t.Helper()
	if !errors.Is(err, target) || !strings.Contains(err.Error(), message) {
		t.Errorf("%v, want %v with %q", err, target, message)
	}
}

func TestImpossibleChanges(t *testing.T) {
	f := newFixture(t)
	pub := f.keys["root"].Public()
	target := func(t tufrepo.Target) tufrepo.Change {
		t.File = f.file("")
		return tufrepo.AddTarget(t)
	}
	delegate := func(name string, keys ...crypto.PublicKey) tufrepo.Change {
		return tufrepo.Delegate(tufrepo.Delegation{Name: name, Paths: []string{"x/*"}, Keys: keys})
	}
	delegations := func(n int) (all []tufrepo.Change) {
		for i := range n {
			all = append(all, delegate(fmt.Sprintf("team-%d", i), pub))
		}
		return all
	}
	linux := []byte(`{"sealboot":{"kind":"uki","version":1,"architecture":"amd64","referenceValues":"rv"}}`)
	for _, c := range []struct {
		want    string
		changes []tufrepo.Change
	}{
		{"no role \"nobody\"", []tufrepo.Change{tufrepo.AddKey("nobody", pub)}},
		{"has that key", []tufrepo.Change{tufrepo.AddKey("root", pub)}},
		{"root has no key 00", []tufrepo.Change{tufrepo.RemoveKey("root", "00")}},
		{"root does not have that key", []tufrepo.Change{tufrepo.RemovePublicKey("root", f.keys["targets"].Public())}},
		{"threshold 0 of root", []tufrepo.Change{tufrepo.SetThreshold("root", 0)}},
		{"would need 2 signatures and have 1", []tufrepo.Change{tufrepo.SetThreshold("snapshot", 2)}},
		{"target name", []tufrepo.Change{target(tufrepo.Target{Name: "../x"})}},
		{"target name", []tufrepo.Change{target(tufrepo.Target{Name: "/x"})}},
		{"no targets role \"root\"", []tufrepo.Change{target(tufrepo.Target{Role: "root", Name: "x"})}},
		{"targets has no target", []tufrepo.Change{tufrepo.RemoveTarget("targets", "x")}},
		{"refers to the target \"rv\"", []tufrepo.Change{target(tufrepo.Target{Name: "x", Custom: linux})}},
		{"a new machine takes none above", []tufrepo.Change{target(tufrepo.Target{Name: "rv"}), target(tufrepo.Target{Name: "x", Custom: []byte(strings.Replace(string(linux), `"version":1`, `"version":70368744177665`, 1))})}},
		{"no device would find the target in role team", []tufrepo.Change{delegate("team", pub), target(tufrepo.Target{Role: "team", Name: "y/x"})}},
		{"within 32 delegated roles", append(delegations(32), target(tufrepo.Target{Role: "team-31", Name: "x/x"}))},
		{"devices would take \"x/x\" from role team-0, not from team-1", append(delegations(2), target(tufrepo.Target{Role: "team-0", Name: "x/x"}), target(tufrepo.Target{Role: "team-1", Name: "x/x"}))},
		{"a name of its own", []tufrepo.Change{delegate("root", pub)}},
		{"as many keys as", []tufrepo.Change{delegate("team")}},
		{"delegates to team already", []tufrepo.Change{delegate("team", pub), delegate("team", pub)}},
		{"lifetime", []tufrepo.Change{tufrepo.SetLifetime("timestamp", time.Minute)}},
		{"no role \"nobody\"", []tufrepo.Change{tufrepo.Refresh("nobody")}},
		{"consistent snapshots already", []tufrepo.Change{tufrepo.Consistent()}},
	} {
		_, err := f.apply(start, f.all(), c.changes...)
		wantRefused(t, err, tufrepo.ErrChange, c.want)
	}
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1})
}

// TestDelegationBesideBins: metadata has roles or bins, never both. Bins come from other tools.
func TestDelegationBesideBins(t *testing.T) {
	f := newFixture(t)
	md := metadata.Targets(start.AddDate(1, 0, 0))
	md.Signed.Version = 2
	md.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{},
		SuccinctRoles: &metadata.SuccinctRoles{KeyIDs: []string{"k"}, Threshold: 1, BitLength: 1, NamePrefix: "bin"}}
	data, err := md.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	draft := filepath.Join(f.dir, ".draft")
	if err := errors.Join(os.Mkdir(draft, 0o755), os.WriteFile(filepath.Join(draft, "targets.json"), data, 0o644)); err != nil {
		t.Fatal(err)
	}
	f.publish(start, f.all())
	_, err = f.apply(start, f.all(), tufrepo.Delegate(tufrepo.Delegation{Name: "a", Paths: []string{"*"}, Keys: []crypto.PublicKey{f.keys["root"].Public()}}))
	wantRefused(t, err, tufrepo.ErrChange, "delegates to hash bins")
}

func TestNotARepository(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "x")
	_, err := tufrepo.Open(t.Context(), nowhere, operator(nowhere))
	wantRefused(t, err, os.ErrNotExist, "sealboot tuf init "+nowhere)

	empty := &fixture{t: t, dir: t.TempDir()}
	_, err = empty.apply(start, nil)
	wantRefused(t, err, tufrepo.ErrChange, "there is no repository yet")

	f := newFixture(t)
	metadataDir := filepath.Join(f.dir, bundle.MetadataDir)
	if err := os.WriteFile(filepath.Join(metadataDir, "index.html"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.publish(start, f.all(), tufrepo.Refresh("timestamp")) // a stranger's file is no role
	if err := os.Remove(filepath.Join(metadataDir, "timestamp.json")); err != nil {
		t.Fatal(err)
	}
	if _, err = f.apply(start, f.all()); err == nil || !strings.Contains(err.Error(), "lacks a top-level role") {
		t.Errorf("without a timestamp: %v", err)
	}
}

// TestRenewPublishesOrFails: nothing of it becomes a draft.
func TestRenewPublishesOrFails(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	defer r.Close()
	_, err := r.Renew(t.Context(), start, []crypto.Signer{f.keys["root"]}, tufrepo.Refresh("timestamp"))
	wantRefused(t, err, tufrepo.ErrChange, "sign with a key of timestamp too")
	if _, err := os.Stat(filepath.Join(f.dir, ".draft")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a draft is left: %v", err)
	}
}

func TestBundleRefuses(t *testing.T) {
	f := newFixture(t)
	f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "a", File: f.file("first")}))
	r := f.open()
	defer r.Close()
	b := tufrepo.Bundle{Lifetime: time.Hour, Keys: []crypto.Signer{f.keys["targets"]}}
	for message, target := range map[string]string{"": "a", "there is no target \"b\"": "b"} {
		b.Targets = []string{target}
		if _, err := r.Bundle(t.Context(), start, b, io.Discard); message != "" || err != nil {
			wantRefused(t, err, tufrepo.ErrChange, message)
		}
	}
	b.Targets = nil
	b.Keys = []crypto.Signer{tuftest.NewKey(t)}
	_, err := r.Bundle(t.Context(), start, b, io.Discard)
	wantRefused(t, err, tufrepo.ErrChange, "keys of the role targets seal a bundle")

	files, err := filepath.Glob(filepath.Join(f.dir, bundle.TargetsDir, "*.a"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := errors.Join(os.Remove(files[0]), os.Mkdir(files[0], 0o755)); err != nil {
		t.Fatal(err)
	}
	b.Keys = nil
	if _, err := r.Bundle(t.Context(), start, b, io.Discard); err == nil || !strings.Contains(err.Error(), "not a plain file") {
		t.Errorf("a directory in the place of a target: %v", err)
	}
}

// TestAddSealRefuses signs nothing that is not a seal: it would be signing metadata.
func TestAddSealRefuses(t *testing.T) {
	f := newFixture(t)
	targets, err := os.ReadFile(filepath.Join(f.dir, bundle.MetadataDir, "1.targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := f.open()
	defer r.Close()
	for _, dir := range []string{f.dir, t.TempDir()} {
		if err := os.WriteFile(filepath.Join(dir, bundle.SealFile), targets, 0o644); err != nil {
			t.Fatal(err)
		}
		message := "is not a seal"
		if dir != f.dir {
			message = "no root in it"
		}
		_, err := r.Seal(t.Context(), dir, []crypto.Signer{f.keys["targets"]})
		wantRefused(t, err, tufrepo.ErrChange, message)
		if now, err := os.ReadFile(filepath.Join(dir, bundle.SealFile)); err != nil || string(now) != string(targets) {
			t.Errorf("%s: it was changed, or %v", dir, err)
		}
	}
}
