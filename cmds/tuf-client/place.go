package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// path is where a target goes: always the same file for the same name, always
// in the directory itself, and never hidden.
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
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return o.createHidden()
	}
	if err != nil {
		return nil, fmt.Errorf("create a file in %s: %w", o.targetDir, err)
	}
	return os.NewFile(uintptr(fd), o.targetDir), nil
}

// createHidden is the same where the file system cannot: no target has this
// name, and one run uses it at a time.
func (o options) createHidden() (*os.File, error) {
	return os.OpenFile(filepath.Join(o.targetDir, hidden), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
}

// hidden is a file that is about to be a target, or never was.
const hidden = ".new"

// clean removes what a failed download left.
func (o options) clean() error {
	if err := os.Remove(filepath.Join(o.targetDir, hidden)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// place gives a complete file its name.
func place(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp := filepath.Join(filepath.Dir(path), hidden)
	if f.Name() != tmp {
		fd := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		if err := unix.Linkat(unix.AT_FDCWD, fd, unix.AT_FDCWD, tmp, unix.AT_SYMLINK_FOLLOW); err != nil {
			return fmt.Errorf("name %s: %w", tmp, err)
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
