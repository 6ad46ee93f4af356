// Command guest is the uinit of the harness's own tests: it prints what a VM
// offers to a loader, does what its command line asks for, and powers off.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("guest: hello")
	if err := run(); err != nil {
		fmt.Printf("guest: failed: %v\n", err)
	}
	fmt.Println("guest: bye")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	fmt.Printf("guest: cmdline %s\n", strings.TrimSpace(string(b)))
	b, err = os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return err
	}
	fmt.Printf("guest: event log %d bytes\n", len(b))
	for _, p := range []string{"4", "11", "12"} {
		b, err := os.ReadFile("/sys/class/tpm/tpm0/pcr-sha256/" + p)
		if err != nil {
			return err
		}
		fmt.Printf("guest: pcr %s %s\n", p, strings.TrimSpace(string(b)))
	}
	return nil
}
