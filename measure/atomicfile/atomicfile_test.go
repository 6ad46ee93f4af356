package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(data string) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.WriteString(data)
		return err
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alone fails the test if anything but the named files is in dir.
func alone(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the directory (-want +got):\n%s", diff)
	}
}

func TestWrite(t *testing.T) {
	old := syscall.Umask(0o077) // must not matter
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, tt := range []struct {
		data string
		perm fs.FileMode
	}{{"first", 0o644}, {"the second is longer", 0o400}, {"", 0o600}} {
		if err := Write(path, []byte(tt.data), tt.perm); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != tt.data || info.Mode() != tt.perm {
			t.Errorf("found %q with mode %v, want %q with %v", got, info.Mode(), tt.data, tt.perm)
		}
	}
	alone(t, dir, "file")
}

// TestDurable looks at the disk whenever something is synced: first the whole
// new file, while the name still stands for the old one, then the directory.
func TestDurable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	type seen struct{ synced, named string }
	var got []seen
	sync := func(f *os.File) error {
		content := "the directory"
		if f.Name() != dir {
			content = read(t, f.Name())
		}
		got = append(got, seen{content, read(t, path)})
		return nil
	}
	if err := replace(path, 0o644, write("new"), sync); err != nil {
		t.Fatal(err)
	}
	want := []seen{{"new", "old"}, {"the directory", "new"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("what was synced, and what the name stood for then (-want +got):\n%s", diff)
	}
}

func TestFailure(t *testing.T) {
	broken := errors.New("broken")
	fail := func(*os.File) error { return broken }
	failAfter := func(f *os.File) error {
		_, err := f.WriteString("half")
		return errors.Join(err, broken)
	}
	fine := func(*os.File) error { return nil }
	for name, tt := range map[string]struct{ fill, sync func(*os.File) error }{
		"while it is written": {failAfter, fine},
		"while it is synced":  {write("new"), fail},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := Write(path, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := replace(path, 0o644, tt.fill, tt.sync); !errors.Is(err, broken) {
				t.Errorf("found error %v, want %v", err, broken)
			}
			if got := read(t, path); got != "old" {
				t.Errorf("the file is %q, want the old one", got)
			}
			alone(t, dir, "file")
		})
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "directory", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"absent/file", "directory"} {
		path := filepath.Join(dir, bad)
		var where *fs.PathError
		var rename *os.LinkError
		err := Write(path, []byte("new"), 0o644)
		if !errors.As(err, &where) && !errors.As(err, &rename) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: found error %v, want one of the file system that names it", bad, err)
		}
	}
	if err := SyncDir(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: found error %v, want %v", err, fs.ErrNotExist)
	}
	alone(t, dir, "directory")
}

// TestReaders lets readers open a file while writers replace it.
func TestReaders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	contents := []string{strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<15)}
	if err := Write(path, []byte(contents[0]), 0o644); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for _, c := range contents {
		running.Go(func() {
			for range 20 {
				if err := Write(path, []byte(c), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
		running.Go(func() {
			for range 200 {
				b, err := os.ReadFile(path)
				if err != nil || string(b) != contents[0] && string(b) != contents[1] {
					t.Errorf("found %d bytes and error %v, want one of the contents", len(b), err)
				}
			}
		})
	}
	running.Wait()
	alone(t, dir, "file")
}
