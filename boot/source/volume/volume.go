// Package volume finds file systems by label and mounts them.
//
// The firmware image has no udev and no blkid. Only labels are looked for, in
// the three formats that media for the loader come in, and only with reads of
// a few hundred bytes at fixed offsets. Nothing on a volume is trusted.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The labels that mean something to the loader.
const (
	Media = "SB-MEDIA" // images to boot
	Cache = "SB-CACHE" // partial downloads
)

var errNoAnswer = errors.New("the device does not answer")

// System says where block devices are seen. Its zero value is the running one.
type System struct {
	Sys string // "" means /sys/class/block
	Dev string // "" means /dev
	Dir string // where to make mount points; "" means /run
	// Patience is how long a device may take to answer; 0 means 30 s, which is
	// enough for a disk that has to spin up. One that hangs for ever, and with it
	// every read in the kernel, must not stop a boot that does not need it.
	Patience time.Duration

	label func(dev string) (label, fstype string, err error) // nil means labelOf
}

func (s System) withDefaults() System {
	if s.Sys == "" {
		s.Sys = "/sys/class/block"
	}
	if s.Dev == "" {
		s.Dev = "/dev"
	}
	if s.Dir == "" {
		s.Dir = "/run"
	}
	if s.Patience == 0 {
		s.Patience = 30 * time.Second
	}
	if s.label == nil {
		s.label = labelOf
	}
	return s
}

// Open mounts the volume with that label, read-only, and returns its directory.
// The error is fs.ErrNotExist if there is none. If several volumes have the
// label, the first by device name is taken that can be mounted.
func (s System) Open(ctx context.Context, label string) (dir string, unmount func() error, err error) {
	return s.mount(ctx, label, unix.MS_RDONLY)
}

// OpenWritable does the same, for writing.
func (s System) OpenWritable(ctx context.Context, label string) (dir string, unmount func() error, err error) {
	return s.mount(ctx, label, 0)
}

func (s System) mount(ctx context.Context, label string, flags uintptr) (string, func() error, error) {
	s = s.withDefaults()
	found, err := s.find(ctx, label)
	if err != nil {
		return "", nil, err
	}
	var errs []error
	for _, v := range found {
		// Each its own: a mount that was given up may still happen, and must not cover another.
		dir := filepath.Join(s.Dir, "volume-"+strings.ToLower(label)+"-"+filepath.Base(v.dev))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, fmt.Errorf("mount point of volume %s: %w", label, err)
		}
		err := within(ctx, mountsLike*s.Patience, func() error { return v.mount(dir, flags) })
		if err == nil {
			return dir, func() error {
				if err := unix.Unmount(dir, 0); err != nil {
					return fmt.Errorf("unmounting volume %s: %w", label, err)
				}
				return nil
			}, nil
		}
		errs = append(errs, fmt.Errorf("mounting volume %s (%s, %s): %w", label, v.dev, v.fstype, err))
	}
	return "", nil, errors.Join(errs...)
}

// labelled is a device with a file system that has a label.
type labelled struct{ dev, label, fstype string }

func (v labelled) mount(dir string, flags uintptr) error {
	if v.fstype == "iso9660" {
		flags |= unix.MS_RDONLY
	}
	return unix.Mount(v.dev, dir, v.fstype, flags|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, options(v.fstype))
}

// options overrule what a volume says of itself: the superblock of ext4 can ask for a kernel panic at the first error,
// and who wrote it can see to it that there is one at every boot.
func options(fstype string) string {
	if fstype == "ext4" {
		return "errors=remount-ro"
	}
	return ""
}

// Find returns the device and the file system type of the first volume with that
// label. The error is fs.ErrNotExist if there is none.
func (s System) Find(ctx context.Context, label string) (dev, fstype string, err error) {
	found, err := s.withDefaults().find(ctx, label)
	if err != nil {
		return "", "", err
	}
	return found[0].dev, found[0].fstype, nil
}

// find returns every volume with that label, or fs.ErrNotExist.
func (s System) find(ctx context.Context, label string) ([]labelled, error) {
	entries, err := os.ReadDir(s.Sys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing block devices: %w", err)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var found []labelled
	for i, v := range s.lookAt(ctx, entries) {
		if v.label == label {
			v.dev = filepath.Join(s.Dev, entries[i].Name())
			found = append(found, v)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("volume labelled %s: %w", label, fs.ErrNotExist)
	}
	return found, nil
}

// lookAt reads the labels of all devices at once, as far as they answer in time.
// A device that cannot be read, a drive without a disk say, has none.
func (s System) lookAt(ctx context.Context, entries []os.DirEntry) []labelled {
	type answer struct {
		i int
		v labelled
	}
	answers := make(chan answer, len(entries))
	for i, e := range entries {
		go func() {
			var v labelled
			if label, fstype, err := s.label(filepath.Join(s.Dev, e.Name())); err == nil {
				v.label, v.fstype = label, fstype
			}
			answers <- answer{i, v}
		}()
	}
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	all := make([]labelled, len(entries))
	for range entries {
		select {
		case a := <-answers:
			all[a.i] = a.v
		case <-ctx.Done():
			return all
		}
	}
	return all
}

// mountsLike is how many answers a mount is worth: a journal may have to be
// replayed.
const mountsLike = 4

// within waits for f, which may hang in the kernel, but not for longer than d.
func within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, errNoAnswer)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func labelOf(dev string) (label, fstype string, err error) {
	f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	label, fstype = Label(f)
	return label, fstype, nil
}

// Label returns the label of the file system in r and its type: "ext4",
// "vfat" or "iso9660"; or nothing if it has none of these.
func Label(r io.ReaderAt) (label, fstype string) {
	for _, f := range []struct {
		fstype, magic       string
		magicAt, at, length int64
	}{
		// The offsets are those of the superblocks: ext2 to ext4 (s_magic,
		// s_volume_name), FAT32 and FAT12/16 (BS_FilSysType, BS_VolLab),
		// ECMA-119 (standard and volume identifier of the first descriptor).
		{"ext4", "\x53\xef", 1024 + 0x38, 1024 + 0x78, 16},
		{"vfat", "FAT32   ", 0x52, 0x47, 11},
		{"vfat", "FAT16   ", 0x36, 0x2b, 11},
		{"vfat", "FAT12   ", 0x36, 0x2b, 11},
		{"iso9660", "\x01CD001", 32768, 32768 + 40, 32},
	} {
		if readString(r, f.magicAt, int64(len(f.magic))) == f.magic {
			return strings.TrimRight(readString(r, f.at, f.length), " \x00"), f.fstype
		}
	}
	return "", ""
}

func readString(r io.ReaderAt, off, n int64) string {
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil {
		return ""
	}
	return string(b)
}
