// Command recorder is the uinit of a dummy loader. It prints the platform
// firmware's event log and powers off: what it prints is the raw material of a
// firmware profile, taken from a machine that never held a secret.
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The lines around the log, which is in base64 between them.
const (
	begin = "-----BEGIN TCG EVENT LOG-----"
	end   = "-----END TCG EVENT LOG-----"
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
	fmt.Println(begin)
	text := base64.StdEncoding.EncodeToString(log)
	for len(text) > 76 {
		fmt.Println(text[:76])
		text = text[76:]
	}
	fmt.Println(text)
	fmt.Println(end)
	return nil
}
