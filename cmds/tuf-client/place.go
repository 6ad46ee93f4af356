package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/tuf"
)

// path is where a target goes: always the same file for the same name, always
// in the folder itself, and never hidden.
func (o options) path(name string) string {
	file := tuf.Escape(name)
	if strings.HasPrefix(file, ".") {
		file = "%2E" + file[1:]
	}
	return filepath.Join(o.targetDir, file)
}

// isThere says whether an earlier download is what is wanted.
func isThere(path string, want tuf.Want) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return want.Check(f) == nil
}

// create makes a file without a name, so that however a download ends nothing
// partial stays behind.
func (o options) create() (*os.File, error) {
	fd, err := unix.Open(o.targetDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create a file in %s: %w", o.targetDir, err)
	}
	return os.NewFile(uintptr(fd), o.targetDir), nil
}

// place gives a complete file its name.
func place(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp := filepath.Join(filepath.Dir(path), ".new") // no target has this name
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fd := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, fd, unix.AT_FDCWD, tmp, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("name %s: %w", tmp, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
