// Command recorder is the uinit of a dummy loader. It prints the platform
// firmware's event log and powers off: what it prints is the raw material of a
// firmware profile, taken from a machine that never held a secret.
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/machine/tty"
	"github.com/sealboot/sealboot/measure/fwlog/armor"
)

const (
	// copies of the log: anyone who captures a serial line may lose a character.
	copies = 2
	// patience is what the console may take. At 9600 baud a log of 64 KiB needs
	// three minutes for its copies.
	patience = 5 * time.Minute
)

func main() {
	if err := record(); err != nil {
		fmt.Printf("recorder: %v\n", err)
		time.Sleep(5 * time.Second) // for init to print it, and for a person to read
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Printf("recorder: power off: %v\n", err)
	}
}

func record() error {
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return fmt.Errorf("read the firmware's event log: %w; this machine has no TPM, or its firmware does not use it", err)
	}
	console, err := tty.Console()
	if err != nil {
		return err
	}
	// What the kernel says meanwhile would land in the middle of the log.
	_, _ = unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_OFF, nil)
	_ = console.SetWriteDeadline(time.Now().Add(patience))
	for range copies {
		if err := armor.Print(console, log); err != nil {
			return err
		}
	}
	return tty.Drain(console, patience)
}
