package kexec

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/image/cpio"
)

// initrd is the file that is loaded and where the handover begins in it.
type initrd struct {
	file   *os.File // open for reading; nil without an initrd
	secret int64    // offset of the handover in bytes; -1 if there is none
	owned  bool     // the file is closed with the initrd
}

// withHandover appends the handover to base.
func withHandover(base *os.File, handover func(io.Writer) error) (*initrd, error) {
	if handover == nil {
		return &initrd{file: base, secret: -1}, nil
	}
	w, err := writable(base)
	if err != nil {
		return nil, err
	}
	out := &initrd{owned: true}
	if out.secret, err = w.Seek(0, io.SeekEnd); err == nil {
		err = appendTo(w, out.secret, handover)
	}
	if err == nil {
		out.file, err = memfd.Reopen(w, os.O_RDONLY)
	}
	if err != nil {
		return nil, errors.Join(err, zero(w, out.secret), w.Close())
	}
	return out, w.Close()
}

// appendTo pads the file to cpio.Align, which the kernel needs between
// archives, and writes the handover.
func appendTo(w *os.File, size int64, handover func(io.Writer) error) error {
	if _, err := w.Write(make([]byte, -size&(cpio.Align-1))); err != nil {
		return err
	}
	return handover(w)
}

// close overwrites the handover and frees what was made for it.
func (i *initrd) close() error {
	if !i.owned {
		return nil
	}
	w, err := memfd.Reopen(i.file, os.O_RDWR)
	if err != nil {
		return errors.Join(fmt.Errorf("overwrite handover: %w", err), i.file.Close())
	}
	return errors.Join(zero(w, i.secret), w.Close(), i.file.Close())
}

// zero overwrites the file from an offset and cuts it off there.
func zero(w *os.File, from int64) error {
	size, err := w.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("overwrite handover: %w", err)
	}
	blank := make([]byte, 64<<10)
	for at := from; at < size; {
		n, err := w.WriteAt(blank[:min(int64(len(blank)), size-at)], at)
		if err != nil {
			return fmt.Errorf("overwrite handover: %w", err)
		}
		at += int64(n)
	}
	if err := w.Truncate(from); err != nil && !errors.Is(err, unix.EPERM) { // sealed against shrinking
		return fmt.Errorf("cut off handover: %w", err)
	}
	return nil
}

// writable opens base for writing if it is memory that may grow, else it
// returns a copy. Without base it returns an empty file.
func writable(base *os.File) (*os.File, error) {
	if base != nil && growable(base) {
		return memfd.Reopen(base, os.O_RDWR)
	}
	w, err := memfd.Create("initrd")
	if err != nil || base == nil {
		return w, err
	}
	if _, err := base.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if _, err := w.ReadFrom(base); err != nil {
		return nil, errors.Join(fmt.Errorf("copy initrd: %w", err), w.Close())
	}
	return w, nil
}

// growable tells a memfd without the seals that would forbid writing.
func growable(f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 {
		return false
	}
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_GROW) == 0
}
