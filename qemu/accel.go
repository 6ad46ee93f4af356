package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
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

// Probe returns KVM if OVMF has just run on it, and TCG if not. The answer
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

// What the probe waits for on a guest's serial line and on QEMU's standard error.
var (
	probeRan    = []byte("BdsDxe: ")           // OVMF has gone through its phases and looks for something to boot
	probeFailed = []byte("KVM internal error") // after which QEMU only stands still
)

// runProbe returns nil if OVMF, which every machine here boots with, has run on the accelerator until it looked for
// something to boot. A smaller guest would not do: there are hosts whose KVM runs a BIOS, and stops at the first
// floating point instruction of OVMF.
func runProbe(ctx context.Context, accel Accel) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("qemu: the probe's console: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel.option(), "-cpu", accel.cpu(), "-m", "128", "-no-reboot",
		"-drive", "if=pflash,format=raw,readonly=on,file="+ovmf.code, "-serial", "stdio")
	cmd.Stdout, cmd.Stderr = w, w
	p, err := child.Start(cmd)
	w.Close()
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	defer p.Kill()
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })()
	var said []byte
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		said = append(said, buf[:n]...)
		switch {
		case bytes.Contains(said, probeRan):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("qemu: a guest on %s did not get anywhere: %w", accel, ctx.Err())
		case bytes.Contains(said, probeFailed), err != nil, len(said) > 1<<16:
			return fmt.Errorf("qemu: a guest on %s did not run: %s", accel, lastLine(string(said)))
		}
	}
}
