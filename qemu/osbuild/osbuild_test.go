package osbuild

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

func TestCopyTree(t *testing.T) {
	dir := t.TempDir()
	tree := fstest.MapFS{
		"usr/bin/tool":       {Data: []byte("x"), Mode: 0o600},
		"etc/systemd/a.conf": {Data: []byte("y"), Mode: 0o600},
		"handover":           {Data: []byte("z"), Mode: 0o700},
	}
	if err := copyTree(dir, tree); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"usr/bin/tool": 0o755, "etc/systemd/a.conf": 0o644, "handover": 0o755} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
	if err := copyTree(dir, fstest.MapFS{"link": {Data: []byte("usr"), Mode: os.ModeSymlink | 0o777}}); err == nil {
		t.Error("a symbolic link was copied")
	}
}

func TestTreeHash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	hash := func(salt string) string {
		t.Helper()
		h, err := treeHash(dir, salt)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	write := func(content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	record := func(what, h string) {
		t.Helper()
		if other, ok := seen[h]; ok {
			t.Errorf("%s has the hash of %s", what, other)
		}
		seen[h] = what
	}
	write("one", 0o644)
	record("the first", hash(""))
	record("another salt", hash("salt"))
	write("two", 0o644)
	record("another content", hash(""))
	write("two", 0o755)
	record("another mode", hash(""))
	if err := os.Rename(path, filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	record("another name", hash(""))
}

func TestOpenRefusesAnEmptyLayout(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"manifests":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if image, err := open(dir); err == nil {
		t.Errorf("open = %+v, want an error", image)
	}
}
