// Command minios is an operating system that boots in a second: the only program
// in an initrd, in a container image, or on a disk. It says what it was booted
// from and what the loader handed over, and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	result := "OK"
	if err := run(); err != nil {
		result = "FAILED: " + err.Error()
	}
	say(result)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("FAILED: power off: " + err.Error())
	}
	select {}
}

// say prints a line as the lab's demo does.
func say(text string) { fmt.Println("sealboot-demo: " + text) }

func run() error {
	for _, m := range []struct{ dir, fstype string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		if err := errors.Join(os.MkdirAll(m.dir, 0o755), unix.Mount(m.fstype, m.dir, m.fstype, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == onDisk {
		name, err := os.ReadFile("/etc/hostname")
		say("root is on the disk, host " + strings.TrimSpace(string(name)))
		return err
	}
	if err := handover(); err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	option := func(name string) string {
		for word := range strings.FieldsSeq(string(raw)) {
			if value, ok := strings.CutPrefix(word, name+"="); ok {
				return value
			}
		}
		return ""
	}
	say("booted as " + option("minios"))
	if root := option("roothash"); root != "" {
		return switchRoot(option("minios.disk"), option("minios.blocks"), root)
	}
	return nil
}

// handover looks at what the loader has brought.
func handover() error {
	key, err := os.ReadFile("/.extra/sealboot/seal.key")
	if err != nil {
		return err
	}
	var names []string
	entries, err := os.ReadDir("/.extra/sealboot")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	say(fmt.Sprintf("handover %s; the seal key has %d bytes", strings.Join(names, " "), len(key)))
	return err
}

// onDisk is the argument of the init that was found on the disk.
const onDisk = "on-disk"

// switchRoot goes on with the init that is on the disk with that serial number,
// every block of which dm-verity checks.
func switchRoot(serial, blocks, root string) error {
	for _, m := range []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
		"dm-mod", "dm-bufio", "reed_solomon", "dm-verity"} {
		if err := load("/modules/" + m + ".ko"); err != nil {
			return err
		}
	}
	disk, err := find(serial)
	if err != nil {
		return err
	}
	dev, err := verity(disk, blocks, root)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir("/sysroot", 0o755), unix.Mount(dev, "/sysroot", "ext4", unix.MS_RDONLY, "")); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	if err := errors.Join(unix.Chdir("/sysroot"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot(".")); err != nil {
		return fmt.Errorf("switch to the root on the disk: %w", err)
	}
	return fmt.Errorf("run the init on the disk: %w", unix.Exec("/sbin/init", []string{"/sbin/init", onDisk}, os.Environ()))
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", module, err)
	}
	return nil
}

// find waits for the disk with that serial number.
func find(serial string) (string, error) {
	for range 300 {
		files, err := filepath.Glob("/sys/class/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", fmt.Errorf("no disk with the serial number %q", serial)
}
