// Package board knows the machines that a loader can be built for: the kernel
// configuration, the stub and the boot path of each.
package board

import (
	"embed"
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/board/kernel"
)

// ErrUnknown means that there is no board of that name.
var ErrUnknown = errors.New("board: unknown board")

//go:embed */kernel.config
var files embed.FS

// Board describes one model of machine.
type Board struct {
	// Name is that of the board's directory.
	Name string
	// Arch is Go's name of the processor architecture.
	Arch string
	// Cmdline is the loader's own command line. It is part of the UKI and
	// measured with it.
	Cmdline string
	// Stub is the path of the EFI program in front of the kernel.
	Stub string
	// BootPath is where firmware looks for it on a removable disk.
	BootPath string

	kernelArch, kernelTarget string
}

// QEMU is QEMU's q35 machine.
func QEMU() Board {
	return Board{
		Name: "qemu-x86_64",
		Arch: "amd64",
		// A panic resets, and so does the end of init. netboot alone says when the
		// watchdog stops, also where its driver would stop it for a reboot. On a busy
		// host the emulated timer ticks late, which the kernel's check of it takes for
		// a broken one, and panics.
		Cmdline:      "console=ttyS0,115200 panic=10 watchdog.stop_on_reboot=0 no_timer_check quiet loglevel=4",
		Stub:         "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
		BootPath:     "EFI/BOOT/BOOTX64.EFI",
		kernelArch:   "x86_64",
		kernelTarget: "arch/x86/boot/bzImage",
	}
}

// All returns every board.
func All() []Board { return []Board{QEMU()} }

// Find returns the board called name.
func Find(name string) (Board, error) {
	var names []string
	for _, b := range All() {
		if b.Name == name {
			return b, nil
		}
		names = append(names, b.Name)
	}
	return Board{}, fmt.Errorf("%w %q; there is %s", ErrUnknown, name, strings.Join(names, ", "))
}

// Kernel returns the description of the board's kernel.
func (b Board) Kernel() (kernel.Config, error) {
	fragment, err := files.ReadFile(b.Name + "/kernel.config")
	if err != nil {
		return kernel.Config{}, fmt.Errorf("board: %s has no kernel configuration: %w", b.Name, err)
	}
	return kernel.Config{Arch: b.kernelArch, Target: b.kernelTarget, Fragment: fragment}, nil
}
