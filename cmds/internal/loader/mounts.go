package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint is one of the kernel's file systems that a loader needs.
type mountPoint struct {
	fstype, target string
	flags          uintptr
	data           string
	optional       bool // the machine or its kernel may not have it
}

func mountPoints() []mountPoint {
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	return []mountPoint{
		{fstype: "proc", target: "/proc", flags: safe},
		{fstype: "sysfs", target: "/sys", flags: safe},
		{fstype: "devtmpfs", target: "/dev", flags: unix.MS_NOSUID | unix.MS_NOEXEC},
		{fstype: "securityfs", target: "/sys/kernel/security", flags: safe, optional: true},
		{fstype: "efivarfs", target: "/sys/firmware/efi/efivars", flags: safe | unix.MS_RDONLY, optional: true},
		{fstype: "tmpfs", target: "/run", flags: safe, data: "mode=0700"},
		{fstype: "tmpfs", target: "/tmp", flags: safe, data: "mode=0700"},
	}
}

// Mounts mounts what is not mounted yet, and returns what could not be.
func Mounts() []error {
	var errs []error
	for _, m := range mountPoints() {
		if mounted(m.target) {
			continue
		}
		if _, err := os.Stat(m.target); err != nil && m.optional {
			continue // no EFI, for one
		}
		err := errors.Join(os.MkdirAll(m.target, 0o755), unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data))
		if err == nil || errors.Is(err, unix.EBUSY) || m.optional && errors.Is(err, unix.ENODEV) {
			continue
		}
		errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err))
	}
	return errs
}

func mounted(target string) bool {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return false // no /proc yet, so nothing
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == target {
			return true
		}
	}
	return false
}

// InInitramfs reports whether this process runs in a loader: its root is the
// kernel's own.
func InInitramfs() bool {
	var fs unix.Statfs_t
	if unix.Statfs("/", &fs) != nil {
		return false
	}
	return fs.Type == unix.RAMFS_MAGIC || fs.Type == unix.TMPFS_MAGIC
}
