package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// legacyFD is the socket on which the parent inherits.
const legacyFD = 3

// newHeir returns both ends of a socket. What is sent into the second stays in
// memory until the first is closed, whether or not anybody receives it.
func newHeir() (heir, legacy *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "heir"), os.NewFile(uintptr(fds[1]), "legacy"), nil
}

// bequeath sends this process's files in memory to the parent.
func bequeath() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []int
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue // the one for reading this very list is gone
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		files = append(files, fd)
	}
	if len(files) == 0 {
		return errors.New("no image in memory")
	}
	if err := unix.Sendmsg(legacyFD, []byte{0}, unix.UnixRights(files...), nil, 0); err != nil {
		return fmt.Errorf("send %d files to the parent: %w", len(files), err)
	}
	return nil
}
