// Package memfd makes anonymous files in memory.
//
// Kernels and initrds live in them: they are freed with their last
// descriptor, they have no name that anything else could open, and
// kexec_file_load reads them. That system call refuses a file which is open
// for writing, so a file is written through one descriptor and used through
// another that can only read.
package memfd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Create returns an empty file, open for reading and writing. The name is for
// error messages and /proc alone.
func Create(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Store returns a file of what fill writes, open for reading only and
// positioned at 0.
func Store(name string, fill func(w *os.File) error) (*os.File, error) {
	w, err := Create(name)
	if err != nil {
		return nil, err
	}
	if err := fill(w); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r, err := Reopen(w, os.O_RDONLY)
	return r, errors.Join(err, w.Close())
}

// Reopen opens the file behind f once more, at position 0. It needs /proc.
func Reopen(f *os.File, flag int) (*os.File, error) {
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s again (is /proc mounted?): %w", f.Name(), err)
	}
	return again, nil
}

// CopyLimited copies r to w, and fails when r has more than limit bytes.
func CopyLimited(w io.Writer, r io.Reader, limit int64) error {
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return err
}
