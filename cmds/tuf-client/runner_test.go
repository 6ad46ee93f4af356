package main

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
)

// runner runs the client against a repository of its own, as the conformance
// suite does. Its methods are named after the suite's.
type runner struct {
	t                       *testing.T
	repo                    *tuftest.Repo
	metadataDir, targetsDir string
	root                    []byte
	now                     time.Time
}

func newRunner(t *testing.T) *runner {
	t.Parallel()
	r := &runner{t: t, repo: tuftest.New(t), metadataDir: t.TempDir(), targetsDir: t.TempDir(), now: time.Now()}
	r.root = r.repo.Last("root")
	return r
}

func (r *runner) run(args ...string) int {
	r.t.Helper()
	clock := func(context.Context) (time.Time, error) { return r.now, nil }
	args = append([]string{"--metadata-dir", r.metadataDir}, args...)
	if err := run(r.t.Context(), args, clock, r.t.Output()); err != nil {
		r.t.Logf("%s: %v", strings.Join(args, " "), err)
		return 1
	}
	return 0
}

func (r *runner) initClient() int {
	path := filepath.Join(r.t.TempDir(), "initial_root.json")
	if err := os.WriteFile(path, r.root, 0o644); err != nil {
		r.t.Fatal(err)
	}
	return r.run("init", path)
}

func (r *runner) refresh() int {
	return r.run("--metadata-url", r.repo.URL+"/metadata/", "refresh")
}

func (r *runner) download(names ...string) int {
	args := []string{
		"--metadata-url", r.repo.URL + "/metadata/",
		"--target-dir", r.targetsDir, "--target-base-url", r.repo.URL + "/targets/",
	}
	for _, n := range names {
		args = append(args, "--target-name", n)
	}
	return r.run(append(args, "download")...)
}

// want fails the test if an exit code is not the expected one.
func (r *runner) want(got, want int) {
	r.t.Helper()
	if got != want {
		r.t.Fatalf("exit code %d, want %d", got, want)
	}
}

// start is the beginning of most cases.
func (r *runner) start() {
	r.t.Helper()
	r.want(r.initClient(), 0)
	r.want(r.refresh(), 0)
}

func (r *runner) file(role string) string {
	return filepath.Join(r.metadataDir, url.PathEscape(role)+".json")
}

// version is the trusted version of a role, 0 if there is none.
func (r *runner) version(role string) int64 {
	r.t.Helper()
	data, err := os.ReadFile(r.file(role))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var md struct{ Signed struct{ Version int64 } }
	if err := json.Unmarshal(data, &md); err != nil {
		r.t.Fatal(err)
	}
	return md.Signed.Version
}

func (r *runner) wantVersion(role string, want int64) {
	r.t.Helper()
	if got := r.version(role); got != want {
		r.t.Fatalf("trusted %s has version %d, want %d", role, got, want)
	}
}

// wantTrusted checks every *.json that the client keeps.
func (r *runner) wantTrusted(want map[string]int64) {
	r.t.Helper()
	got := map[string]int64{}
	for _, f := range r.jsonFiles() {
		role, err := url.PathUnescape(strings.TrimSuffix(filepath.Base(f), ".json"))
		if err != nil {
			r.t.Fatal(err)
		}
		got[role] = r.version(role)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Fatalf("trusted roles (-want +got):\n%s", diff)
	}
}

func (r *runner) jsonFiles() []string {
	files, err := filepath.Glob(filepath.Join(r.metadataDir, "*.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	return files
}

// wantMetadata checks that a trusted file is exactly these bytes.
func (r *runner) wantMetadata(role string, want []byte) {
	r.t.Helper()
	got, err := os.ReadFile(r.file(role))
	if err != nil {
		r.t.Fatal(err)
	}
	if string(got) != string(want) {
		r.t.Fatalf("trusted %s is\n%s\nwant\n%s", role, got, want)
	}
}

func (r *runner) wantRequests(want ...tuftest.Request) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.repo.Requests()); diff != "" {
		r.t.Fatalf("requests (-want +got):\n%s", diff)
	}
}

func (r *runner) wantLastRequest(role string, version int64) {
	r.t.Helper()
	all := r.repo.Requests()
	if got := all[len(all)-1]; got != (tuftest.Request{Role: role, Version: version}) {
		r.t.Fatalf("the last request is %v, want %s %d", got, role, version)
	}
}

// wantDownloads checks the content of everything in the targets directory.
func (r *runner) wantDownloads(want ...string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.targetsDir)
	if err != nil {
		r.t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(r.targetsDir, e.Name()))
		if err != nil {
			r.t.Fatal(err)
		}
		got = append(got, string(data))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Fatalf("downloads (-want +got):\n%s", diff)
	}
}

var topLevel = []string{"root", "timestamp", "snapshot", "targets"}

func firstRefresh() []tuftest.Request {
	return []tuftest.Request{{Role: "root", Version: 2}, {Role: "timestamp"}, {Role: "snapshot", Version: 1}, {Role: "targets", Version: 1}}
}
