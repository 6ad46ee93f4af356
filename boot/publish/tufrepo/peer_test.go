package tufrepo_test

import (
	"crypto"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// node runs a script of testdata/tufjs. The modules come from "npm ci" there or
// from NODE_PATH.
func node(t *testing.T, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", append([]string{script}, args...)...)
	cmd.Dir = filepath.Join("testdata", "tufjs")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func needTUFJS(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "-e", `require("tuf-js")`)
	cmd.Dir = filepath.Join("testdata", "tufjs")
	if err := cmd.Run(); err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatalf("tuf-js is missing (npm ci in %s): %v", cmd.Dir, err)
		}
		t.Skipf("tuf-js is not installed: %v", err)
	}
}

// TestTUFJSFollowsUs: what this package publishes, tuf-js verifies: delegations,
// every key type, a rotation.
func TestTUFJSFollowsUs(t *testing.T) {
	needTUFJS(t)
	f := newFixture(t)
	team, fresh := tuftest.NewKeyOf(t, "", "rsassa-pss-sha256"), tuftest.NewKeyOf(t, "", "ed25519")
	now := time.Now()
	f.publish(now, append(f.all(), team),
		tufrepo.AddTarget(tufrepo.Target{Name: "os", File: f.file("kernel")}),
		tufrepo.Delegate(tufrepo.Delegation{Name: "team", Paths: []string{"team/*"}, Keys: []crypto.PublicKey{team.Public()}, Terminating: true}),
		tufrepo.AddTarget(tufrepo.Target{Role: "team", Name: "team/uki", File: f.file("uki")}))
	f.publish(now, append(f.all(), fresh), tufrepo.RemovePublicKey("timestamp", f.keys["timestamp"].Public()), tufrepo.AddKey("timestamp", fresh.Public()))

	server := httptest.NewServer(http.FileServer(http.Dir(f.dir)))
	defer server.Close()
	dir := t.TempDir()
	for _, sub := range []string{"metadata", "targets"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "metadata", "root.json"), f.rootFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	node(t, "follow.js", server.URL, dir, "os", "team/uki")
	for file, want := range map[string]string{"os": "kernel", "team%2Fuki": "uki"} {
		if got, err := os.ReadFile(filepath.Join(dir, "targets", file)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", file, got, err)
		}
	}
}

// TestWeFollowTUFJS: what tuf-js's models make, this client verifies, and this
// package publishes on.
func TestWeFollowTUFJS(t *testing.T) {
	needTUFJS(t)
	f := &fixture{t: t, dir: t.TempDir()}
	node(t, "publish.js", f.dir)
	now := time.Now()
	f.wantVersions(now, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "team": 1})
	r := f.open()
	if err := errors.Join(r.Begin(t.Context(), f.rootFile()), r.Close()); err != nil {
		t.Fatal(err)
	}
	// A target of ours, waiting for the keys that only tuf-js's owner has.
	s, err := f.apply(now, nil, tufrepo.AddTarget(tufrepo.Target{Name: "ours", File: f.file("ours")}))
	if err != nil || s.Published || len(s.Missing) != 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	f.wantVersions(now, map[string]int64{"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1, "team": 1})
}

// TestWeFollowGoTUF: the repositories that go-tuf brings along, of its own making
// and of python-tuf's, and real roots of Sigstore's.
func TestWeFollowGoTUF(t *testing.T) {
	module := func(path string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
		if err != nil {
			t.Fatalf("go list -m %s: %v", path, err)
		}
		return strings.TrimSpace(string(out))
	}
	read := func(elem ...string) []byte {
		data, err := os.ReadFile(filepath.Join(elem...))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	peer := module("github.com/theupdateframework/go-tuf/v2")
	dir := filepath.Join(peer, "examples", "multirepo", "repository")
	report, err := tufrepo.Verify(t.Context(), dir, read(dir, "metadata", "1.root.json"), start)
	if err != nil || report.Roles["targets"].Targets != 3 {
		t.Errorf("%+v, %v", report, err)
	}
	for _, root := range [][]byte{
		read(peer, "internal", "testutils", "repository_data", "repository", "metadata", "root.json"),
		read(dir, "targets", "sigstore-tuf-root", "root.json"),
		read(module("github.com/sigstore/sigstore"), "pkg", "tuf", "repository", "root.json"),
	} {
		nowhere := []tuf.Repository{tuf.Web{}}
		if _, err := tuf.New(tuf.Config{TrustedRoot: root, Store: &store.Memory{}, Repositories: nowhere, Now: start}); err != nil {
			t.Error(err)
		}
	}
}
