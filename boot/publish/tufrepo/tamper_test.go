package tufrepo_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

// A vandal owns the directory of a repository, as a web server does that somebody has
// broken into, and no key.
type vandal struct {
	t   *testing.T
	f   *fixture
	old string // metadata/ as it was one publication ago
}

func (v *vandal) file(name string) string { return filepath.Join(v.f.dir, "metadata", name) }

func (v *vandal) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

// edit changes the signed part of a file and leaves the signatures.
func (v *vandal) edit(name string, edit func(signed map[string]any)) {
	v.t.Helper()
	data, err := os.ReadFile(v.file(name))
	v.must(err)
	var md map[string]any
	v.must(json.Unmarshal(data, &md))
	edit(md["signed"].(map[string]any))
	data, err = json.Marshal(md)
	v.must(err)
	v.must(os.WriteFile(v.file(name), data, 0o644))
}

// grant adds a key to a role of a root.
func (v *vandal) grant(signed map[string]any, role string, pub crypto.PublicKey) {
	key, id, err := sign.PublicKey(pub)
	v.must(err)
	signed["keys"].(map[string]any)[id] = key
	r := signed["roles"].(map[string]any)[role].(map[string]any)
	r["keyids"] = append(r["keyids"].([]any), id)
}

func (v *vandal) copy(dst, src string) {
	v.t.Helper()
	v.must(os.RemoveAll(dst))
	v.must(os.CopyFS(dst, os.DirFS(src)))
}

func object(v any, path ...string) map[string]any {
	for _, p := range path {
		v = v.(map[string]any)[p]
	}
	return v.(map[string]any)
}

// resign signs a file anew with a key of the fixture, which this vandal has stolen.
func resign[T metadata.Roles](v *vandal, name, to, role string, edit func(*T)) {
	v.t.Helper()
	md, err := new(metadata.Metadata[T]).FromFile(v.file(name))
	v.must(err)
	edit(&md.Signed)
	_, id, err := sign.PublicKey(v.f.keys[role].Public())
	v.must(err)
	v.must(sign.Metadata(md, id, v.f.keys[role]))
	v.must(md.ToFile(v.file(to), false))
}

// vandalised is a repository of two delegations, two roots and two versions of a
// target, with a vandal.
func vandalised(t *testing.T) *vandal {
	t.Helper()
	f := newFixture(t)
	f.keys["team"] = tuftest.NewKey(t)
	v := &vandal{t: t, f: f, old: filepath.Join(t.TempDir(), "old")}
	f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "os", File: f.file("one")}),
		tufrepo.Delegate(tufrepo.Delegation{Name: "team", Paths: []string{"team/*"}, Keys: []crypto.PublicKey{f.keys["team"].Public()}}),
		tufrepo.AddTarget(tufrepo.Target{Role: "team", Name: "team/a", File: f.file("a")}))
	v.copy(v.old, filepath.Join(f.dir, "metadata"))
	f.publish(start, f.all(), tufrepo.Refresh("root"), tufrepo.AddTarget(tufrepo.Target{Name: "os", File: f.file("two")}),
		tufrepo.AddTarget(tufrepo.Target{Role: "team", Name: "team/a", File: f.file("b")}))
	return v
}

// attacks are on a repository of root 2, timestamp 3, snapshot 3, targets 3, team 2.
var attacks = map[string]func(*vandal){
	"a hash in targets.json": func(v *vandal) {
		v.edit("3.targets.json", func(s map[string]any) {
			object(s, "targets", "os", "hashes")["sha256"] = strings.Repeat("00", 32)
		})
	},
	"a length in the snapshot": func(v *vandal) {
		v.edit("3.snapshot.json", func(s map[string]any) { object(s, "meta", "targets.json")["length"] = 1 })
	},
	"a version in the timestamp": func(v *vandal) {
		v.edit("timestamp.json", func(s map[string]any) { object(s, "meta", "snapshot.json")["version"] = 2 })
	},
	"a key in the first root": func(v *vandal) {
		v.edit("1.root.json", func(s map[string]any) { v.grant(s, "targets", tuftest.NewKey(v.t).Public()) })
	},
	"another first root, well signed": func(v *vandal) {
		other := newFixture(v.t)
		v.must(os.WriteFile(v.file("1.root.json"), other.rootFile(), 0o644))
	},
	"a key in the newest root": func(v *vandal) {
		v.edit("2.root.json", func(s map[string]any) { v.grant(s, "targets", tuftest.NewKey(v.t).Public()) })
	},
	"a next root without signatures of its keys": func(v *vandal) {
		data, err := os.ReadFile(v.file("2.root.json"))
		v.must(err)
		v.must(os.WriteFile(v.file("3.root.json"), data, 0o644))
		v.edit("3.root.json", func(s map[string]any) { s["version"] = 3; v.grant(s, "targets", tuftest.NewKey(v.t).Public()) })
	},
	"all set back": func(v *vandal) { v.copy(filepath.Join(v.f.dir, "metadata"), v.old) },
	"snapshot and timestamp set back": func(v *vandal) {
		for _, name := range []string{"3.targets.json", "3.snapshot.json", "2.team.json"} {
			v.must(os.Remove(v.file(name)))
		}
		data, err := os.ReadFile(filepath.Join(v.old, "timestamp.json"))
		v.must(err)
		v.must(os.WriteFile(v.file("timestamp.json"), data, 0o644))
	},
	"the newest root taken away":      func(v *vandal) { v.must(os.Remove(v.file("2.root.json"))) },
	"all metadata taken away":         func(v *vandal) { v.must(os.RemoveAll(filepath.Join(v.f.dir, "metadata"))) },
	"an empty directory in its place": func(v *vandal) { v.copy(filepath.Join(v.f.dir, "metadata"), v.t.TempDir()) },
	"a delegated role of its own":     func(v *vandal) { v.edit("2.team.json", func(s map[string]any) { s["targets"] = map[string]any{} }) },
	"a delegated role, the old again": func(v *vandal) { v.must(os.Rename(v.file("1.team.json"), v.file("2.team.json"))) },
	"a delegated role taken away":     func(v *vandal) { v.must(os.Remove(v.file("2.team.json"))) },
	"a delegated role set back with stolen online keys": func(v *vandal) {
		resign(v, "3.snapshot.json", "4.snapshot.json", "snapshot", func(s *metadata.SnapshotType) {
			s.Version, s.Meta["team.json"].Version = 4, 1
		})
		resign(v, "timestamp.json", "timestamp.json", "timestamp", func(s *metadata.TimestampType) {
			s.Version, s.Meta["snapshot.json"].Version = 4, 4
		})
	},
	"a delegated role left out with stolen online keys": func(v *vandal) {
		resign(v, "3.snapshot.json", "4.snapshot.json", "snapshot", func(s *metadata.SnapshotType) {
			s.Version = 4
			delete(s.Meta, "team.json")
		})
		resign(v, "timestamp.json", "timestamp.json", "timestamp", func(s *metadata.TimestampType) {
			s.Version, s.Meta["snapshot.json"].Version = 4, 4
		})
	},
}

// TestTampered: nothing is built on what somebody has changed in the directory, by no
// command, and nothing of it is touched. Put back, all goes on.
func TestTampered(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vandalised(t)
			f := v.f
			good := filepath.Join(t.TempDir(), "good")
			v.copy(good, filepath.Join(f.dir, "metadata"))
			attack(v)
			before := tree(t, f.dir)
			for what, act := range signers(f) {
				r := f.open()
				if err := act(r); !errors.Is(err, tufrepo.ErrTampered) {
					t.Errorf("%s: %v", what, err)
				}
				v.must(r.Close())
			}
			r := f.open()
			if _, err := r.Verify(t.Context(), start); err == nil {
				t.Error("verify found nothing")
			}
			v.must(r.Close())
			if diff := cmp.Diff(before, tree(t, f.dir)); diff != "" {
				t.Errorf("the repository was changed (-before +after):\n%s", diff)
			}
			v.copy(filepath.Join(f.dir, "metadata"), good)
			f.publish(start, f.all(), tufrepo.Refresh("timestamp"))
			f.wantVersions(start, map[string]int64{"root": 2, "timestamp": 4, "snapshot": 3, "targets": 3, "team": 2})
		})
	}
}

// signers are all that builds on what is published.
func signers(f *fixture) map[string]func(*tufrepo.Repo) error {
	ctx, fresh := f.t.Context(), tuftest.NewKey(f.t)
	apply := func(changes ...tufrepo.Change) func(*tufrepo.Repo) error {
		return func(r *tufrepo.Repo) error {
			_, err := r.Apply(ctx, start, append(f.all(), fresh), changes...)
			return err
		}
	}
	return map[string]func(*tufrepo.Repo) error{
		"add":      apply(tufrepo.AddTarget(tufrepo.Target{Name: "new", File: f.file("new")})),
		"remove":   apply(tufrepo.RemoveTarget("targets", "os")),
		"rotate":   apply(tufrepo.RemovePublicKey("timestamp", f.keys["timestamp"].Public()), tufrepo.AddKey("timestamp", fresh.Public())),
		"add-key":  apply(tufrepo.AddKey("root", fresh.Public())),
		"delegate": apply(tufrepo.Delegate(tufrepo.Delegation{Name: "b", Paths: []string{"b/*"}, Keys: []crypto.PublicKey{fresh.Public()}})),
		"sign":     apply(),
		"refresh": func(r *tufrepo.Repo) error {
			_, err := r.Renew(ctx, start, f.all(), tufrepo.Refresh("timestamp"))
			return err
		},
		"bundle": func(r *tufrepo.Repo) error {
			_, err := r.Bundle(ctx, start, tufrepo.Bundle{Lifetime: time.Hour, Keys: f.all()}, io.Discard)
			return err
		},
		"export": func(r *tufrepo.Repo) error { return r.Export(ctx, f.t.TempDir()) },
		"diff": func(r *tufrepo.Repo) error {
			_, err := r.Diff(ctx, start)
			return err
		},
	}
}

// tree is the content of a directory, by name.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestVerifyTampered: from the genuine root alone, nothing is remembered, what does
// not verify is found too.
func TestVerifyTampered(t *testing.T) {
	remembered := []string{ // what a device with a floor alone can know
		"all set back", "a delegated role set back with stolen online keys", "a delegated role left out with stolen online keys",
		"snapshot and timestamp set back", "the newest root taken away",
	}
	for name, attack := range attacks {
		if slices.Contains(remembered, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := vandalised(t)
			root := v.f.rootFile()
			attack(v)
			if _, err := tufrepo.Verify(t.Context(), v.f.dir, root, start); err == nil {
				t.Error("it verifies")
			}
		})
	}
}

// TestTargetFileTampered: a target's bytes are compared before they are taken along.
func TestTargetFileTampered(t *testing.T) {
	v := vandalised(t)
	files, err := filepath.Glob(filepath.Join(v.f.dir, "targets", "*.os"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		v.must(os.WriteFile(file, []byte("bad"), 0o644))
	}
	r := v.f.open()
	defer r.Close()
	for _, what := range []string{"bundle", "export"} {
		if err := signers(v.f)[what](r); !errors.Is(err, tuf.ErrMismatch) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestLinksElsewhere: nothing is written outside of the directory by way of a link in it.
func TestLinksElsewhere(t *testing.T) {
	f, outside := newFixture(t), t.TempDir()
	v := &vandal{t: t, f: f}
	www := t.TempDir()
	for _, dir := range []string{f.dir, www} {
		v.must(os.MkdirAll(filepath.Join(dir, "targets"), 0o755))
	}
	f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "etc/a", File: f.file("a")}))
	v.must(os.Symlink(outside, filepath.Join(f.dir, "targets", "os")))
	v.must(os.Symlink(outside, filepath.Join(www, "targets", "etc")))
	if _, err := f.apply(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "os/x/a", File: f.file("a")})); err == nil {
		t.Error("added through a link")
	}
	if _, err := f.apply(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "os/a", File: f.file("a")})); err == nil {
		t.Error("added through a link")
	}
	r := f.open()
	if err := r.Export(t.Context(), www); err == nil {
		t.Error("exported through a link")
	}
	v.must(os.Remove(filepath.Join(www, "targets", "etc")))
	v.must(os.RemoveAll(filepath.Join(www, ".staging")))
	v.must(os.Symlink(filepath.Join(outside, "staging"), filepath.Join(www, ".staging")))
	if err := r.Export(t.Context(), www); err != nil {
		t.Errorf("exported beside a link: %v", err)
	}
	v.must(r.Close())
	v.must(os.Remove(filepath.Join(f.dir, ".lock")))
	v.must(os.Symlink(filepath.Join(outside, "lock"), filepath.Join(f.dir, ".lock")))
	if _, err := tufrepo.Open(t.Context(), f.dir, operator(f.dir)); err == nil {
		t.Error("locked a link")
	}
	if diff := cmp.Diff(map[string]string{}, tree(t, outside)); diff != "" {
		t.Errorf("written outside:\n%s", diff)
	}
}

// TestLinksInside: what a link in the directory leads to outside of it does not come along
// in a bundle, which goes to people who may not read it.
func TestLinksInside(t *testing.T) {
	f := newFixture(t)
	v := &vandal{t: t, f: f}
	secret := f.file("the key of the operator")
	f.publish(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "a", File: f.file("a")}))
	link := filepath.Join(f.dir, "metadata", "0.json")
	v.must(os.Symlink(secret, link))
	r := f.open()
	defer r.Close()
	var tarball bytes.Buffer
	_, err := r.Bundle(t.Context(), start, tufrepo.Bundle{Lifetime: time.Hour, Keys: f.all()}, &tarball)
	if err == nil || bytes.Contains(tarball.Bytes(), []byte("the key of the operator")) {
		t.Errorf("a bundle with a link to a file of the operator: %v", err)
	}
	v.must(os.Remove(link))
	v.must(unix.Mkfifo(link, 0o600))
	if _, err := r.Bundle(t.Context(), start, tufrepo.Bundle{Lifetime: time.Hour, Keys: f.all()}, &tarball); err == nil {
		t.Error("a bundle with a pipe")
	}
	v.must(os.Remove(link))
	v.must(errors.Join(os.WriteFile(link, nil, 0o600), os.Truncate(link, 1<<40)))
	if _, err := r.Bundle(t.Context(), start, tufrepo.Bundle{Lifetime: time.Hour, Keys: f.all()}, io.Discard); !errors.Is(err, tuf.ErrTooLarge) {
		t.Errorf("a bundle with a TiB of junk: %v", err)
	}
	if err := r.Export(t.Context(), t.TempDir()); !errors.Is(err, tuf.ErrTooLarge) {
		t.Errorf("an export with a TiB of junk: %v", err)
	}
}

// TestForeignRepository: what another tool has made, or another machine, is taken
// over from a root that is named, and from no other.
func TestForeignRepository(t *testing.T) {
	v := vandalised(t)
	f, stranger := v.f, newFixture(t)
	v.must(os.RemoveAll(f.dir + ".state"))
	for what, act := range signers(f) {
		r := f.open()
		if err := act(r); !errors.Is(err, tufrepo.ErrUntrusted) {
			t.Errorf("%s: %v", what, err)
		}
		v.must(r.Close())
	}
	r := f.open()
	if err := r.Begin(t.Context(), stranger.rootFile()); !errors.Is(err, tufrepo.ErrTampered) {
		t.Errorf("from a root of somebody else's: %v", err)
	}
	v.must(r.Begin(t.Context(), f.rootFile()))
	if err := r.Begin(t.Context(), f.rootFile()); !errors.Is(err, tufrepo.ErrTrusted) {
		t.Errorf("twice: %v", err)
	}
	trust, err := r.Trust()
	v.must(err)
	want := map[string]int64{"root": 2, "timestamp": 3, "snapshot": 3, "targets": 3, "team": 2}
	if diff := cmp.Diff(want, trust.Versions); diff != "" {
		t.Errorf("seen (-want +got):\n%s", diff)
	}
	v.must(r.Close())
	attacks["all set back"](v)
	if _, err := f.apply(start, f.all(), tufrepo.Refresh("timestamp")); !errors.Is(err, tuf.ErrRollback) {
		t.Errorf("set back after it was taken over: %v", err)
	}
	data, err := tufrepo.FindRoot(t.Context(), f.dir, trust.RootSHA256)
	if err != nil || string(data) != string(f.rootFile()) {
		t.Errorf("by its digest: %v", err)
	}
	if _, err := tufrepo.FindRoot(t.Context(), f.dir, [32]byte{1}); !errors.Is(err, tufrepo.ErrUntrusted) {
		t.Errorf("by a digest that no root has: %v", err)
	}
}

// TestExpired: what has expired is said, and renewed.
func TestExpired(t *testing.T) {
	v := vandalised(t)
	late := start.AddDate(2, 0, 0)
	var shown tufrepo.Diff
	r, err := tufrepo.Open(t.Context(), v.f.dir, tufrepo.Operator{State: v.f.dir + ".state", Confirm: func(d tufrepo.Diff) error { shown = d; return nil }})
	v.must(err)
	defer r.Close()
	_, err = r.Renew(t.Context(), late, v.f.all(), tufrepo.Refresh("timestamp"))
	v.must(err)
	if len(shown.Expired) != 4 || !strings.Contains(shown.String(), "warning: team has expired at 2027-05-01T12:00:00Z") {
		t.Errorf("said to have expired: %q", shown.Expired)
	}
	_, err = r.Renew(t.Context(), late, v.f.all(), tufrepo.Refresh("root"), tufrepo.Refresh("targets"), tufrepo.Refresh("team"), tufrepo.Refresh("snapshot"))
	v.must(err)
	v.f.wantVersions(late, map[string]int64{"root": 3, "timestamp": 5, "snapshot": 4, "targets": 4, "team": 3})
}
