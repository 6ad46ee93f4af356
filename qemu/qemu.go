// Package qemu runs virtual machines that have firmware, a TPM and a serial
// console: the harness of the tests, of the lab, and of "sealboot vm".
//
// It promises three things that shell scripts around QEMU do not. No process
// outlives the program that started it, even when that program is killed. Every
// wait has a deadline, stretched when the processor is emulated. And the
// accelerator is one that has just run a guest, not one whose device file exists.
package qemu

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Errors of this package; wrap-tested with errors.Is.
var (
	// ErrConfig means that a Config cannot describe a machine.
	ErrConfig = errors.New("qemu: bad configuration")
	// ErrExited means that the machine ended while something was awaited.
	ErrExited = errors.New("qemu: the machine ended")
	// ErrDeadline means that nothing awaited happened in time.
	ErrDeadline = errors.New("qemu: deadline passed")
)

// Arch names a machine model.
type Arch string

// AMD64 is QEMU's q35 machine with OVMF and a TPM with the CRB interface.
const AMD64 Arch = "amd64"

// Config describes one machine. Only Dir is required.
type Config struct {
	// Arch is the machine model; empty means AMD64.
	Arch Arch
	// Dir keeps what survives a power cycle (the firmware's variables) and the
	// console's log. It is created when missing.
	Dir string
	// Memory is in MiB; 0 means 512. CPUs: 0 means 2.
	Memory, CPUs int
	// Accel is how the processor runs; empty means Probe.
	Accel Accel

	// Boot is the disk image that the firmware starts from. Without it, or a
	// Kernel, the firmware finds nothing to boot.
	Boot string
	// Kernel, Initrd and Cmdline start a kernel directly; firmware still runs
	// and measures.
	Kernel, Initrd, Cmdline string
	// Disks are attached after Boot, in order: /dev/vdb and so on.
	Disks []Disk
	// TPM is the state directory of a TPM made by CreateTPM; empty means no TPM.
	TPM string
	// TPMFilter stands between the machine and its TPM; nil means no one.
	TPMFilter TPMFilter

	// NoNetwork leaves the network card out. Otherwise the guest sits behind
	// user networking, where 10.0.2.2 is this machine's loopback.
	NoNetwork bool
	// Isolated lets the guest reach nothing but the ports of Forward.
	Isolated bool
	// Unplugged starts with the network cable out; see VM.SetLink.
	Unplugged bool
	// Forward makes ports of the guest reachable on this machine's loopback.
	Forward []Forward

	// IOMMU gives the machine Intel's, which all its virtio devices go through, and
	// puts the network card behind a bridge.
	IOMMU bool

	// FWCfg are files handed to the guest by name through fw_cfg; names must
	// begin with "opt/".
	FWCfg map[string]string
	// SMBIOS are strings of the maker of the machine (SMBIOS type 11), which an
	// operating system may take settings from.
	SMBIOS []string
	// RTC is the time at which the hardware clock starts, UTC; zero means now.
	RTC time.Time
	// NoReboot turns a reset of the guest into the machine's end.
	NoReboot bool
	// Console receives a copy of the serial console as it comes; may be nil.
	Console io.Writer
}

// Disk is a virtio disk.
type Disk struct {
	// Path is an image file.
	Path string
	// Format is QEMU's name of the image format; empty means raw.
	Format string
	// Serial is what the guest sees in /dev/disk/by-id; may be empty.
	Serial string
	// ReadOnly refuses writes.
	ReadOnly bool
}

// Forward maps a TCP port of this machine's loopback to one of the guest.
type Forward struct{ Host, Guest int }

// ConsoleLog returns the path of the file that keeps the whole console output.
func (c *Config) ConsoleLog() string { return filepath.Join(c.Dir, "console.log") }

// memory is the machine's, in MiB.
func (c *Config) memory() int { return cmp.Or(c.Memory, 512) }

// firmware is the pair of flash images of a machine model.
type firmware struct{ code, vars string }

// ovmf is where Debian's package "ovmf" keeps them.
var ovmf = firmware{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}

func (c *Config) check() error {
	if c.Dir == "" {
		return fmt.Errorf("%w: no directory", ErrConfig)
	}
	if a := cmp.Or(c.Arch, AMD64); a != AMD64 {
		return fmt.Errorf("%w: no machine model for %q; there is %q", ErrConfig, a, AMD64)
	}
	if c.Memory < 0 || c.CPUs < 0 {
		return fmt.Errorf("%w: memory %d MiB and %d processors must not be negative", ErrConfig, c.Memory, c.CPUs)
	}
	if c.Kernel == "" && (c.Initrd != "" || c.Cmdline != "") {
		return fmt.Errorf("%w: an initrd or a command line needs a kernel", ErrConfig)
	}
	for name := range c.FWCfg {
		if !strings.HasPrefix(name, "opt/") {
			return fmt.Errorf("%w: fw_cfg name %q does not begin with opt/", ErrConfig, name)
		}
	}
	paths := []string{c.Boot, c.Kernel, c.Initrd, c.TPM}
	for _, d := range c.Disks {
		paths = append(paths, d.Path)
	}
	for _, p := range paths {
		if p == "" {
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if info.IsDir() && p != c.TPM {
			return fmt.Errorf("%w: %s is a directory", ErrConfig, p)
		}
		if strings.Contains(p, ",") {
			return fmt.Errorf("%w: QEMU cannot take the comma in %q", ErrConfig, p)
		}
	}
	return nil
}
