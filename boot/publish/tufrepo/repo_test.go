package tufrepo_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// fixture is a repository with one key a role.
type fixture struct {
	t    *testing.T
	dir  string
	keys map[string]crypto.Signer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), keys: map[string]crypto.Signer{}}
	changes := []tufrepo.Change{tufrepo.Create()}
	for i, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		scheme := []string{"ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ed25519"}[i]
		f.keys[role] = tuftest.NewKeyOf(t, "", scheme)
		changes = append(changes, tufrepo.AddKey(role, f.keys[role].Public()))
	}
	f.publish(start, f.all(), changes...)
	return f
}

func (f *fixture) all() []crypto.Signer { return slices.Collect(maps.Values(f.keys)) }

// operator is that of the repository in dir.
func operator(dir string) tufrepo.Operator { return tufrepo.Operator{State: dir + ".state"} }

func (f *fixture) open() *tufrepo.Repo {
	f.t.Helper()
	r, err := tufrepo.Open(f.t.Context(), f.dir, operator(f.dir))
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) apply(now time.Time, keys []crypto.Signer, changes ...tufrepo.Change) (tufrepo.Status, error) {
	f.t.Helper()
	r := f.open()
	defer r.Close()
	return r.Apply(f.t.Context(), now, keys, changes...)
}

func (f *fixture) publish(now time.Time, keys []crypto.Signer, changes ...tufrepo.Change) {
	f.t.Helper()
	s, err := f.apply(now, keys, changes...)
	if err != nil {
		f.t.Fatal(err)
	}
	if !s.Published {
		f.t.Fatalf("not published: %+v", s)
	}
}

func (f *fixture) file(content string) string {
	f.t.Helper()
	name := filepath.Join(f.t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return name
}

func (f *fixture) rootFile() []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, "metadata", "1.root.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

func (f *fixture) verify(now time.Time) (tufrepo.Report, error) {
	return tufrepo.Verify(f.t.Context(), f.dir, f.rootFile(), now)
}

func (f *fixture) versions(now time.Time) map[string]int64 {
	f.t.Helper()
	report, err := f.verify(now)
	if err != nil {
		f.t.Fatal(err)
	}
	v := map[string]int64{}
	for name, role := range report.Roles {
		v[name] = role.Version
	}
	return v
}

func (f *fixture) wantVersions(now time.Time, want map[string]int64) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.versions(now)); diff != "" {
		f.t.Fatalf("versions (-want +got):\n%s", diff)
	}
}

func TestCreateAndRenew(t *testing.T) {
	f := newFixture(t)
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1})
	late := start.AddDate(0, 0, 8)
	if _, err := f.verify(late); !errors.Is(err, tuf.ErrExpired) {
		t.Fatalf("after a week: %v, want expired", err)
	}
	f.publish(late, []crypto.Signer{f.keys["timestamp"]}, tufrepo.Refresh("timestamp"))
	f.wantVersions(late, map[string]int64{"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1})
	if _, err := f.apply(late, f.all(), tufrepo.Create()); !errors.Is(err, tufrepo.ErrExists) {
		t.Fatalf("create twice: %v", err)
	}
}

func TestNothingToDoPublishesNothing(t *testing.T) {
	f := newFixture(t)
	s, err := f.apply(start, f.all())
	if err != nil || len(s.Versions) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1})
}

// client follows the repository over HTTP.
func (f *fixture) client(dir string) *tuf.Client {
	f.t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	f.t.Cleanup(server.Close)
	c, err := tuf.New(tuf.Config{
		TrustedRoot: f.rootFile(), Store: &store.Memory{}, Now: start,
		Repositories: []tuf.Repository{tuf.Web{URL: server.URL + "/metadata"}},
		Targets: tuf.Streamed{URL: server.URL + "/targets", Create: func() (*os.File, error) {
			return os.CreateTemp(f.t.TempDir(), "")
		}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func download(t *testing.T, c *tuf.Client, name string) string {
	t.Helper()
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	target, err := c.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := c.Download(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTargetsReachClients(t *testing.T) {
	f := newFixture(t)
	team := tuftest.NewKeyOf(t, "", "rsassa-pss-sha256")
	f.publish(start, append(f.all(), team),
		tufrepo.AddTarget(tufrepo.Target{Name: "os/kernel", File: f.file("kernel")}),
		tufrepo.Delegate(tufrepo.Delegation{Name: "team", Paths: []string{"team/*"}, Keys: []crypto.PublicKey{team.Public()}}),
		tufrepo.AddTarget(tufrepo.Target{Role: "team", Name: "team/uki", File: f.file("uki")}))
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, "team": 1})
	out := t.TempDir()
	r := f.open()
	defer r.Close()
	for range 2 { // the second time over what is there
		if err := r.Export(t.Context(), out); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{f.dir, out} {
		c := f.client(dir)
		if got := download(t, c, "os/kernel"); got != "kernel" {
			t.Errorf("os/kernel is %q", got)
		}
		if got := download(t, c, "team/uki"); got != "uki" {
			t.Errorf("team/uki is %q", got)
		}
		if got := c.SignedTime(); !got.Equal(start) {
			t.Errorf("signed at %s, want %s", got, start)
		}
	}
}

func TestOfflineKeysSignOneAfterTheOther(t *testing.T) {
	f := newFixture(t)
	a, b := tuftest.NewKey(t), tuftest.NewKey(t)
	// Two of three from now on; the old key and one new one must sign.
	s, err := f.apply(start, []crypto.Signer{f.keys["root"]},
		tufrepo.AddKey("root", a.Public()), tufrepo.AddKey("root", b.Public()), tufrepo.SetThreshold("root", 2))
	if err != nil || s.Published || s.Missing["root"].Need != 1 || len(s.Missing["root"].Keys) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1})

	// The timestamp does not wait for the root.
	r := f.open()
	if s, err := r.Renew(t.Context(), start, []crypto.Signer{f.keys["timestamp"]}, tufrepo.Refresh("timestamp")); err != nil || !s.Published {
		t.Fatalf("%+v, %v", s, err)
	}
	r.Close()
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1})

	if _, err := f.apply(start, []crypto.Signer{tuftest.NewKey(t)}); !errors.Is(err, tufrepo.ErrChange) {
		t.Fatalf("signed with a stranger's key: %v", err)
	}
	f.publish(start, []crypto.Signer{b})
	f.wantVersions(start, map[string]int64{"root": 2, "timestamp": 2, "snapshot": 1, "targets": 1})
	if s, err := f.apply(start, []crypto.Signer{a, b}); err != nil || len(s.Versions) != 0 {
		t.Fatalf("the draft is still there: %+v, %v", s, err)
	}
}

func TestRotationSignsWhatHangsOnTheKey(t *testing.T) {
	f := newFixture(t)
	fresh := tuftest.NewKey(t)
	_, old, err := sign.PublicKey(f.keys["snapshot"].Public())
	if err != nil {
		t.Fatal(err)
	}
	f.publish(start, append(f.all(), fresh), tufrepo.RemoveKey("snapshot", old), tufrepo.AddKey("snapshot", fresh.Public()))
	f.wantVersions(start, map[string]int64{"root": 2, "timestamp": 2, "snapshot": 2, "targets": 1})
}

func TestConcurrentPublishersTakeTurns(t *testing.T) {
	f := newFixture(t)
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		file := f.file(fmt.Sprint(i))
		wg.Go(func() {
			s, err := f.apply(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: fmt.Sprint("t", i), File: file}))
			if err != nil || !s.Published {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	wg.Wait()
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": n + 1, "snapshot": n + 1, "targets": n + 1})
	report, _ := f.verify(start)
	if report.Roles["targets"].Targets != n {
		t.Fatalf("%d targets, want %d", report.Roles["targets"].Targets, n)
	}
}

func TestLockEndsWithTheContext(t *testing.T) {
	f := newFixture(t)
	r := f.open()
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tufrepo.Open(ctx, f.dir, operator(f.dir)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
