// Package volumetest makes block devices with file systems, for tests.
package volumetest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/source/volume"
)

// Machine returns a system whose block devices are the images, in that order,
// behind loop devices, for which it needs root. It has none of the machine's that
// runs the test, among which are the loop devices of other tests.
func Machine(t testing.TB, images ...Image) volume.System {
	t.Helper()
	if len(images) > 0 {
		needLoop(t)
	}
	dir := t.TempDir()
	s := volume.System{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), Dir: filepath.Join(dir, "run")}
	for _, d := range []string{s.Sys, s.Dev} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, img := range images {
		name := "vd" + string(rune('a'+i))
		if err := os.Mkdir(filepath.Join(s.Sys, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(img.attach(t), filepath.Join(s.Dev, name)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Image is a file that stands for a disk.
type Image struct {
	Path     string
	ReadOnly bool
}

// Ext4 makes a file system of 16 MiB.
func Ext4(t testing.TB, label string) Image {
	t.Helper()
	img := Image{Path: filepath.Join(t.TempDir(), "disk.img")}
	if err := os.WriteFile(img.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img.Path, 16<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-L", label, img.Path)
	return img
}

// Failing makes a file system on a disk that takes no writes any more, as one at its end does: its file is in a RAM disk that is full.
func Failing(t testing.TB, label string) Image {
	t.Helper()
	needLoop(t)
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=4m", "none", dir)
	t.Cleanup(func() { run(t, "umount", "--lazy", dir) }) // who looks at all loop devices may hold ours for a moment
	img := Image{Path: filepath.Join(dir, "disk.img")}
	run(t, "cp", "--sparse=always", Ext4(t, label).Path, img.Path)
	f, err := os.Create(filepath.Join(dir, "rest"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return img
}

// Mount mounts the file system on dir until the test ends.
func (i Image) Mount(t testing.TB, dir string) {
	t.Helper()
	run(t, "mount", i.attach(t), dir)
	t.Cleanup(func() { run(t, "umount", dir) })
}

// Damage overwrites all of a disk but the superblock, which has the label.
func (i Image) Damage(t testing.TB) Image {
	t.Helper()
	f, err := os.OpenFile(i.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := []byte(strings.Repeat("\xa5", 1<<20))
	for off := int64(4096); off < 15<<20; off += int64(len(junk)) {
		if _, err := f.WriteAt(junk, off); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// Edit has change make changes to the mounted file system.
func (i Image) Edit(t testing.TB, change func(dir string)) Image {
	t.Helper()
	needLoop(t)
	dir := t.TempDir()
	dev := i.loop(t)
	defer run(t, "losetup", "--detach", dev)
	run(t, "mount", dev, dir)
	defer func() {
		// A mount namespace that a process of another test made meanwhile holds the file system too. It stays mounted
		// then, and what is not written yet is not on the image when the next one reads it.
		run(t, "sync", "--file-system", dir)
		run(t, "umount", dir)
	}()
	change(dir)
	return i
}

// attach returns the loop device that the image is behind until the test ends.
func (i Image) attach(t testing.TB) string {
	t.Helper()
	dev := i.loop(t)
	t.Cleanup(func() { run(t, "losetup", "--detach", dev) })
	return dev
}

// loop puts the image behind a loop device of its own. What "mount -o loop" does instead is not good enough: it takes a
// device that it finds attached to a file with this number, which can be one that an earlier test has deleted.
func (i Image) loop(t testing.TB) string {
	t.Helper()
	args := []string{"--find", "--show", i.Path}
	if i.ReadOnly {
		args = append(args, "--read-only")
	}
	return strings.TrimSpace(run(t, "losetup", args...))
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func needLoop(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "block devices need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing(t, err)
	}
}

func missing(t testing.TB, why any) {
	t.Helper()
	if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}
