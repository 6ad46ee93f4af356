package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	onDisk, release, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for name, s := range map[string]tuf.Store{"disk": onDisk, "memory": &Memory{}} {
		for _, role := range []string{"root", "a/b", "..", ".", "ü?", strings.Repeat("long", 200)} {
			if _, err := s.Load(role); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %q before it was saved: %v", name, role, err)
			}
			for _, content := range []string{"first", "second"} {
				if err := s.Save(role, []byte(content)); err != nil {
					t.Fatal(err)
				}
				if got, err := s.Load(role); err != nil || string(got) != content {
					t.Errorf("%s: %q is %q, %v", name, role, got, err)
				}
			}
		}
		if err := s.SaveRoot(7, []byte("seven")); err != nil {
			t.Fatal(err)
		}
		if got, err := s.LoadRoot(7); err != nil || string(got) != "seven" {
			t.Errorf("%s: root 7 is %q, %v", name, got, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoadIsBounded(t *testing.T) {
	dir := t.TempDir()
	s, release, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.WriteFile(filepath.Join(dir, "root.json"), make([]byte, maxFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("root"); err == nil {
		t.Fatal("loaded a file that is too large")
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "targets.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("targets"); err == nil {
		t.Fatal("followed a link out of the directory")
	}
}

// TestFailures: what else goes wrong than a name that is there, or not there, is told.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "full", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := (Dir{root}).Create("full"); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a file in the place of a directory: %v", err)
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
	if err := (Dir{root}).Mkdir("new"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a directory in one that is closed: %v", err)
	}
	disk := newPowerFS()
	disk.left = 1 // create, but not write
	if err := New(stuck{disk}).Save("root", []byte("x")); !errors.Is(err, errPower) || !errors.Is(err, errStuck) {
		t.Errorf("half a file that cannot be removed: %v", err)
	}
}

var errStuck = errors.New("it cannot be removed")

// stuck is a file system whose files cannot be removed.
type stuck struct{ *powerFS }

func (stuck) Remove(string) error { return errStuck }

// TestPipes has a directory in which every file is a named pipe, with no one at its other end: nothing waits for one, and
// saving replaces them.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	s, release, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.Mkdir(filepath.Join(dir, rootsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"timestamp.json", "timestamp.json.tmp", "roots/2.root", "roots/2.root.tmp"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Load("timestamp"); err == nil {
		t.Error("loaded a pipe")
	}
	if _, err := s.LoadRoot(2); err == nil {
		t.Error("loaded a pipe as a root")
	}
	large := bytes.Repeat([]byte("x"), 1<<20) // more than a pipe takes
	if err := errors.Join(s.Save("timestamp", large), s.SaveRoot(2, large)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("timestamp"); err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestPowerLossAtEveryWrite takes the power away before every operation of an
// update. After that, every file is whole and the next update succeeds.
func TestPowerLossAtEveryWrite(t *testing.T) {
	repo := tuftest.New(t)
	repo.Delegate("targets", metadata.DelegatedRole{Name: "team", Threshold: 1, Paths: []string{"*"}})
	repo.Publish("team", "targets", "snapshot", "timestamp")
	before := newPowerFS()
	update(t, repo, before, nil)
	repo.RotateKeys("timestamp")
	repo.Publish("root", "root", "team", "targets", "snapshot", "timestamp")

	for _, m := range []mode{forgetNames, keepNames, tornNames} {
		steps := 0
		for ; ; steps++ {
			disk := before.restart()
			disk.left, disk.mode = steps, m
			update(t, repo, disk, errPower)
			finished := disk.left > 0
			after := disk.restart()
			wantWhole(t, repo, after, fmt.Sprintf("mode %d, step %d", m, steps))
			update(t, repo, after, nil)
			if got := version(t, New(after), "targets"); got != 3 {
				t.Fatalf("mode %d, step %d: targets %d in the end", m, steps, got)
			}
			if finished {
				break
			}
		}
		if steps < 20 {
			t.Fatalf("only %d steps", steps)
		}
	}
}

// update is a device's refresh; allowed is an error that it may end with.
func update(t *testing.T, repo *tuftest.Repo, disk *powerFS, allowed error) {
	t.Helper()
	c, err := tuf.New(tuf.Config{
		TrustedRoot: repo.Published["root"][0], Store: New(disk), Now: time.Now(),
		Repositories: []tuf.Repository{tuf.Web{URL: repo.URL + "/metadata"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Refresh(t.Context())
	if err == nil {
		_, err = c.Find(t.Context(), "nothing")
	}
	if !errors.Is(err, tuf.ErrNoTarget) && (allowed == nil || !errors.Is(err, allowed)) {
		t.Fatal(err)
	}
	if allowed != nil && errors.Is(err, allowed) && !errors.Is(err, tuf.ErrStore) {
		t.Fatalf("%v does not say that the store failed", err)
	}
}

func wantWhole(t *testing.T, repo *tuftest.Repo, disk *powerFS, when string) {
	t.Helper()
	for name, n := range disk.live {
		if strings.HasSuffix(name, ".tmp") {
			continue // never read
		}
		role := strings.TrimSuffix(name, ".json")
		if strings.HasPrefix(name, rootsDir) {
			role = "root"
		}
		whole := false
		for _, p := range repo.Published[role] {
			whole = whole || bytes.Equal(p, n.live)
		}
		if !whole {
			t.Fatalf("%s: %s is not what was published: %q", when, name, n.live)
		}
	}
}

func version(t *testing.T, s *Store, role string) int64 {
	t.Helper()
	data, err := s.Load(role)
	if err != nil {
		t.Fatal(err)
	}
	var md struct{ Signed struct{ Version int64 } }
	if err := json.Unmarshal(data, &md); err != nil {
		t.Fatal(err)
	}
	return md.Signed.Version
}

func TestFloor(t *testing.T) {
	ctx := t.Context()
	state := func(root, timestamp, targets int64, keys byte) tuf.State {
		s := tuf.State{RootVersion: root, RootSHA256: [32]byte{byte(root)}}
		s.Timestamp = tuf.RoleState{Version: timestamp, Keys: [32]byte{keys}}
		s.Targets = tuf.RoleState{Version: targets, Keys: [32]byte{keys}}
		return s
	}
	disk := newPowerFS()
	f := New(disk).Floor()
	if err := f.Check(ctx, state(1, 1, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := f.Raise(ctx, state(2, 10, 5, 1)); err != nil {
		t.Fatal(err)
	}
	fork := state(2, 10, 5, 1)
	fork.RootSHA256 = [32]byte{99}
	for name, tc := range map[string]struct {
		state tuf.State
		ok    bool
	}{
		"same":              {state(2, 10, 5, 1), true},
		"newer":             {state(3, 11, 6, 1), true},
		"not known yet":     {state(2, 0, 0, 1), true},
		"older root":        {state(1, 11, 6, 1), false},
		"another root":      {fork, false},
		"older timestamp":   {state(2, 9, 5, 1), false},
		"older targets":     {state(2, 10, 4, 1), false},
		"older, other keys": {state(3, 1, 1, 2), true},
	} {
		if err := New(disk.restart()).Floor().Check(ctx, tc.state); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		} else if err != nil && !errors.Is(err, tuf.ErrRollback) {
			t.Errorf("%s: %v is not a rollback", name, err)
		}
	}
	// Raising never lowers, and other keys begin anew.
	for _, s := range []tuf.State{state(1, 3, 3, 1), state(3, 1, 0, 2)} {
		if err := f.Raise(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := f.load(), state(3, 1, 0, 2); got.RootVersion != 3 || got.Timestamp != want.Timestamp || got.Targets.Version != 5 {
		t.Errorf("the floor is %+v", got)
	}
}
