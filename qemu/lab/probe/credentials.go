package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// credentials looks for settings that the machine, not the image, offers to the
// operating system, and for what they have changed. The test offers a line for
// systemd-tmpfiles as an SMBIOS string, one for systemd-sysctl in fw_cfg, and a
// piece of command line as an EFI variable.
func credentials(ctx context.Context) (string, error) {
	// Without these modules no one would see what is offered.
	_ = exec.CommandContext(ctx, "modprobe", "--all", "--quiet", "dmi-sysfs", "qemu_fw_cfg").Run()
	var offered, taken []string
	for place, pattern := range map[string]string{
		"SMBIOS": "/sys/firmware/dmi/entries/11-*/raw",
		"fw_cfg": "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/*/raw",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && (place == "fw_cfg" || bytes.Contains(b, []byte("io.systemd.credential"))) {
				offered = append(offered, place)
			}
		}
	}
	entries, err := os.ReadDir("/run/credentials/@system")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		taken = append(taken, e.Name())
	}
	if _, err := os.Stat("/run/planted"); err == nil {
		taken = append(taken, "a file planted by SMBIOS")
	}
	if b, err := os.ReadFile("/proc/sys/kernel/domainname"); err == nil && strings.TrimSpace(string(b)) == "planted" {
		taken = append(taken, "a setting planted by fw_cfg")
	}
	if b, err := os.ReadFile("/proc/sys/kernel/hostname"); err == nil && strings.TrimSpace(string(b)) == "planted" {
		taken = append(taken, "a host name planted by an EFI variable")
	}
	if len(taken) > 0 {
		return "", fmt.Errorf("taken from outside: %s", strings.Join(taken, ", "))
	}
	return fmt.Sprintf("%d offered, none taken", len(offered)), nil
}
