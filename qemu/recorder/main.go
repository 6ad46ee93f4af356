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
	drain(int(os.Stdout.Fd()))
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Printf("recorder: power off: %v\n", err)
	}
}

// drain waits until a serial line, which is slow, has sent everything: what the
// kernel prints when it powers off would end up in the middle of the log. TCSBRK
// alone ends early when a signal arrives, and the Go runtime sends some.
func drain(fd int) {
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(20 * time.Millisecond) {
		if left, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ); err != nil || left == 0 {
			break
		}
	}
	_ = unix.IoctlSetInt(fd, unix.TCSBRK, 1) // and the UART's own buffer
	time.Sleep(10 * time.Second)             // both have been seen to return with most of the log unsent
}

func record() error {
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return fmt.Errorf("read the firmware's event log: %w; this machine has no TPM, or its firmware does not use it", err)
	}
	return armor.Print(os.Stdout, log)
}
