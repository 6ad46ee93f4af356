// Package cpio writes and reads the "newc" archives that Linux unpacks as its
// initramfs.
//
// It exists because the root file system of the operating system passes
// through it byte by byte on the way to kexec: the writer streams with one
// buffer, its output depends on its input alone, and it refuses what the
// kernel's unpacker would silently skip (names longer than PATH_MAX, files of
// 4 GiB and more). The reader is strict: what it accepts, the writer would
// write again with the same bytes.
//
// The format is described in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
package cpio

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxName is the longest member name in bytes, without the final NUL.
	// The kernel skips members whose name, NUL included, exceeds PATH_MAX.
	MaxName = 4095
	// MaxSize is the largest member body in bytes: the field has 32 bits.
	MaxSize = 1<<32 - 1
	// Align is what an archive's length is padded to, so that another
	// archive can follow it.
	Align = 512

	magic     = "070701"
	trailer   = "TRAILER!!!"
	headerLen = 110
)

// File type bits of [Header.Mode], as in stat(2).
const (
	ModeType    = 0o170000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// ErrFormat is wrapped by every error about a malformed archive or member.
var ErrFormat = errors.New("malformed cpio archive")

// Header describes one member. Members with the same Ino, DevMajor and
// DevMinor and an Nlink of at least 2 are hard links of one file; the kernel
// wants the body with exactly one of them and Size 0 with the others.
type Header struct {
	Name                 string // path without a leading slash
	Ino                  uint32
	Mode                 uint32 // type and permission bits
	UID, GID             uint32
	Nlink                uint32
	ModTime              uint32 // seconds since 1970
	Size                 uint32 // bytes of body; a symlink's body is its target
	DevMajor, DevMinor   uint32
	RdevMajor, RdevMinor uint32 // device number of a device node
}

// check refuses what the kernel would skip or misread.
func (h *Header) check() error {
	switch {
	case h.Name == "" || len(h.Name) > MaxName:
		return fmt.Errorf("%w: name of %d bytes, allowed are 1 to %d", ErrFormat, len(h.Name), MaxName)
	case strings.IndexByte(h.Name, 0) >= 0:
		return fmt.Errorf("%w: name %q holds a NUL byte", ErrFormat, h.Name)
	case h.Name == trailer:
		return fmt.Errorf("%w: the name %q is reserved for the end of an archive", ErrFormat, trailer)
	}
	return nil
}

// fields lists the numeric fields in the order of the format. The check sum,
// which newc leaves zero, is not part of it.
func (h *Header) fields(nameSize uint32) [13]uint32 {
	return [13]uint32{
		h.Ino, h.Mode, h.UID, h.GID, h.Nlink, h.ModTime, h.Size,
		h.DevMajor, h.DevMinor, h.RdevMajor, h.RdevMinor, nameSize, 0,
	}
}

// pad returns how many bytes bring n to a multiple of align, a power of two.
func pad(n, align int64) int64 { return -n & (align - 1) }
