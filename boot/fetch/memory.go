package fetch

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// memory makes anonymous files. It prefers a private tmpfs of large pages, on
// which storing and freeing an image takes a fraction of the time that a
// memfd needs; mounting that takes privilege and a kernel with large pages.
type memory struct {
	once sync.Once
	dir  int // descriptor of the tmpfs; -1 to use memfds
}

// file returns an anonymous file of size bytes. Its pages are allocated as
// they are written, and freed when the last descriptor is closed.
func (m *memory) file(name string, size int64) (*os.File, error) {
	m.once.Do(func() { m.dir = mountTmpfs() })
	f, err := m.open(name)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (m *memory) open(name string) (*os.File, error) {
	if m.dir >= 0 {
		fd, err := unix.Openat(m.dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == nil {
			return os.NewFile(uintptr(fd), "tmpfs:"+name), nil
		}
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "memfd:"+name), nil
}

func (m *memory) close() error {
	m.once.Do(func() { m.dir = -1 })
	if m.dir < 0 {
		return nil
	}
	return unix.Close(m.dir)
}

// mountTmpfs returns the root of a new tmpfs that is mounted nowhere, or -1.
func mountTmpfs() int {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"huge", "within_size"}, {"size", "100%"}, {"mode", "0700"}} {
		if unix.FsconfigSetString(fs, o[0], o[1]) != nil {
			return -1
		}
	}
	if unix.FsconfigCreate(fs) != nil {
		return -1
	}
	dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1
	}
	return dir
}

// readOnly closes f and returns a read-only descriptor of the same file.
// kexec_file_load refuses a file that anybody holds open for writing.
func readOnly(f *os.File) (*os.File, error) {
	r, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, fmt.Errorf("opening again read-only (is /proc mounted?): %w", err)
	}
	return r, f.Close()
}

func checkRoom(room func() (int64, error), need int64) error {
	have, err := room()
	if err != nil {
		return fmt.Errorf("finding out how much memory there is: %w", err)
	}
	if need > have {
		return &RoomError{Need: need, Have: have}
	}
	return nil
}

// memAvailable reads MemAvailable, in bytes.
func memAvailable() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 53)
			return kib << 10, err
		}
	}
	return 0, errors.Join(errors.New("no MemAvailable in /proc/meminfo"), s.Err())
}
