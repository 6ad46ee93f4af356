package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestFallback has directories in the place of files: what is saved there is loaded all the same, until the disk takes it.
func TestFallback(t *testing.T) {
	dir := t.TempDir()
	disk, release, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, name := range []string{"timestamp.json", "roots/2.root"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var warned []error
	f := NewFallback(disk, func(err error) { warned = append(warned, err) })
	if _, err := f.Load("snapshot"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was not saved: %v", err)
	}
	save := func(content string) {
		t.Helper()
		for role, save := range map[string]func([]byte) error{
			"timestamp": func(b []byte) error { return f.Save("timestamp", b) },
			"snapshot":  func(b []byte) error { return f.Save("snapshot", b) },
			"root 2":    func(b []byte) error { return f.SaveRoot(2, b) },
		} {
			if err := save([]byte(content)); err != nil {
				t.Errorf("%s: %v", role, err)
			}
		}
		timestamp, err := f.Load("timestamp")
		snapshot, err2 := f.Load("snapshot")
		root, err3 := f.LoadRoot(2)
		if err := errors.Join(err, err2, err3); err != nil || string(timestamp)+string(snapshot)+string(root) != content+content+content {
			t.Errorf("saved %s, loaded %s, %s and %s, %v", content, timestamp, snapshot, root, err)
		}
	}
	save("first")
	save("second")
	if len(warned) != 1 {
		t.Errorf("warnings: %v", warned)
	}
	if got, err := disk.Load("snapshot"); err != nil || string(got) != "second" {
		t.Errorf("what can be kept on the disk is %q, %v", got, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "timestamp.json")); err != nil {
		t.Fatal(err)
	}
	save("third")
	if got, err := disk.Load("timestamp"); err != nil || string(got) != "third" {
		t.Errorf("after the directory is gone, the disk has %q, %v", got, err)
	}
}
