package regular_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/regular"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600),
		os.Mkdir(filepath.Join(dir, "directory"), 0o700),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.Symlink("pipe", filepath.Join(dir, "link")),
		os.Symlink("/etc/passwd", filepath.Join(dir, "out")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		flag int
		want error
	}{
		{"file", os.O_RDONLY, nil},
		{"file", os.O_RDWR, nil},
		{"new", os.O_RDWR | os.O_CREATE, nil},
		{"absent", os.O_RDONLY, fs.ErrNotExist},
		{"directory", os.O_RDONLY, regular.Err},
		{"pipe", os.O_RDONLY, regular.Err},
		{"pipe", os.O_WRONLY, regular.Err},
		{"pipe", os.O_RDWR | os.O_CREATE, regular.Err},
		{"link", os.O_RDONLY, regular.Err},
	} {
		f, err := regular.Open(root, c.name, c.flag, 0o600)
		if !errors.Is(err, c.want) {
			t.Errorf("Open %s (%#x): %v; want %v", c.name, c.flag, err, c.want)
		}
		if err == nil {
			f.Close()
		}
	}
	if f, err := regular.Open(root, "out", os.O_RDONLY, 0); err == nil {
		f.Close()
		t.Error("a link led out of the root")
	}
}
