package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealboot/sealboot/qemu/child"
)

// Accel is how a guest's processor runs.
type Accel string

const (
	// KVM runs guests on the processor itself.
	KVM Accel = "kvm"
	// TCG emulates the processor, everywhere and slowly.
	TCG Accel = "tcg"
)

// tcgFactor is how much longer a guest may take when it is emulated. Measured
// boots are five to ten times slower; the rest is for a machine that is busy.
const tcgFactor = 12

// Deadline stretches d, a generous time on real hardware, to this accelerator.
func (a Accel) Deadline(d time.Duration) time.Duration {
	if a == KVM {
		return d
	}
	return tcgFactor * d
}

func (a Accel) option() string {
	if a == KVM {
		return "kvm"
	}
	return "tcg,thread=multi"
}

func (a Accel) cpu() string {
	if a == KVM {
		return "host"
	}
	// Without five-level paging, as a precaution: kernels are reported to stand still
	// under TCG's max model while they start a second processor.
	return "max,la57=off"
}

// Probe returns KVM if a guest has just run on it, and TCG if not. The answer
// is found once a process. The environment variable SEALBOOT_ACCEL ("kvm" or
// "tcg") replaces the probe.
func Probe() Accel {
	switch a := Accel(os.Getenv("SEALBOOT_ACCEL")); a {
	case KVM, TCG:
		return a
	}
	return probeOnce()
}

var probeOnce = sync.OnceValue(func() Accel {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return TCG
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	if err := runProbe(ctx, KVM); err != nil {
		return TCG
	}
	return KVM
})

// probeTime is far more than the probe needs on any machine where KVM works; on
// one where its guests hang it is what every program pays once.
const probeTime = 5 * time.Second

// probeSector is a boot sector that writes 0x15 to the port of QEMU's
// isa-debug-exit device, which ends QEMU with status 0x15<<1|1. That the sector
// runs at all means that a BIOS has run before it, with timers and protected mode.
var probeSector = []byte{
	0xb0, 0x15, // mov al, 0x15
	0xe6, 0xf4, // out 0xf4, al
	0xf4,       // hlt
	0xeb, 0xfd, // jmp to the hlt
}

const probeStatus = 0x15<<1 | 1

// runProbe returns nil if a guest has run to its end on the accelerator.
func runProbe(ctx context.Context, accel Accel) error {
	dir, err := os.MkdirTemp("", "sealboot-probe-")
	if err != nil {
		return fmt.Errorf("qemu: making the probe's directory: %w", err)
	}
	defer os.RemoveAll(dir)
	disk := make([]byte, 1<<20) // the BIOS wants at least a cylinder
	copy(disk, probeSector)
	disk[510], disk[511] = 0x55, 0xaa
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, disk, 0o600); err != nil {
		return fmt.Errorf("qemu: writing the probe's disk: %w", err)
	}
	var diag bytes.Buffer
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel.option(), "-cpu", accel.cpu(), "-m", "32", "-no-reboot",
		"-drive", "if=none,id=probe,format=raw,file="+image, "-device", "ide-hd,drive=probe,bootindex=0",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4")
	cmd.Stderr = &diag
	p, err := child.Start(cmd)
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	defer p.Kill()
	select {
	case <-p.Done():
	case <-ctx.Done():
		return fmt.Errorf("qemu: a guest on %s did not end: %w", accel, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(p.Err(), &exit) && exit.ExitCode() == probeStatus {
		return nil
	}
	return fmt.Errorf("qemu: a guest on %s did not run: %w: %s", accel, p.Err(), lastLine(diag.String()))
}
