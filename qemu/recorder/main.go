// Command recorder is the uinit of a dummy loader. It prints the platform
// firmware's event log and powers off: what it prints is the raw material of a
// firmware profile, taken from a machine that never held a secret.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/measure/fwlog/armor"
)

func main() {
	if err := record(); err != nil {
		fmt.Printf("recorder: %v\n", err)
		time.Sleep(5 * time.Second) // for a person to read
	}
	// A serial line is slow: wait until it has sent everything.
	_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Printf("recorder: power off: %v\n", err)
	}
}

func record() error {
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return fmt.Errorf("read the firmware's event log: %w; this machine has no TPM, or its firmware does not use it", err)
	}
	return armor.Print(os.Stdout, log)
}
