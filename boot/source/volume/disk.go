package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenDisk opens a whole device for reading and writing, with no one else
// using it. name is /dev/NAME, PARTLABEL=the name of a GPT partition, or
// SERIAL=the serial number of a disk, as the kernel reads it. The error is
// fs.ErrNotExist if there is none; two that fit are an error, too.
func (s System) OpenDisk(ctx context.Context, name string) (*os.File, error) {
	s = s.withDefaults()
	dev, ok := strings.CutPrefix(name, "/dev/")
	if !ok {
		var err error
		if dev, err = s.findDisk(ctx, name); err != nil {
			return nil, err
		}
	}
	// On a block device O_EXCL refuses one that is mounted or held by another.
	f, err := os.OpenFile(filepath.Join(s.Dev, dev), os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("opening disk %s: %w", name, err)
	}
	return f, nil
}

// findDisk looks for the device that sysfs describes as name says.
func (s System) findDisk(ctx context.Context, name string) (string, error) {
	entries, err := os.ReadDir(s.Sys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("listing block devices: %w", err)
	}
	key, want, _ := strings.Cut(name, "=")
	found := ""
	for _, e := range entries {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if !describes(filepath.Join(s.Sys, e.Name()), key, want) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("disk %s: both %s and %s are: name one that is unique", name, found, e.Name())
		}
		found = e.Name()
	}
	if found == "" {
		return "", fmt.Errorf("disk %s: %w", name, fs.ErrNotExist)
	}
	return found, nil
}

func describes(dir, key, want string) bool {
	switch key {
	case "PARTLABEL":
		text, err := os.ReadFile(filepath.Join(dir, "uevent"))
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(text)) {
			if strings.TrimRight(line, "\n") == "PARTNAME="+want {
				return true
			}
		}
	case "SERIAL":
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			return false // its disk is meant
		}
		for _, file := range []string{"serial", "device/serial"} { // virtio; NVMe, MMC
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil && strings.TrimSpace(string(text)) == want {
				return true
			}
		}
	}
	return false
}
