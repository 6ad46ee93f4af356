// Package kexec hands the machine over to another kernel.
//
// It uses kexec_file_load alone: the kernel itself reads the new kernel and
// its initrd from two files, keeps what a payload needs (ACPI tables, EFI
// memory map, random seed), and can check signatures. The initrd is one memfd
// to whose end the handover is appended, so there is one copy of it in user
// space and no other.
//
// The order is that of systemd: load the kernel as it is, and only if its
// format is refused unwrap it (EFI zboot, gzip, UKI) and try again.
package kexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Syscalls is the part of the kernel that is used here.
type Syscalls interface {
	KexecFileLoad(kernel, initrd int, cmdline string, flags int) error
	Reboot(cmd int) error
	ReadFile(name string) ([]byte, error)
}

// Payload is what will run. It has no device tree: the kernel passes on the one
// that it was booted with. The files stay the caller's; they must be open
// for reading only, because the kernel refuses a file that is open for writing.
type Payload struct {
	Kernel  *os.File
	Initrd  *os.File // may be nil
	Cmdline string
	// Handover writes an archive that goes to the end of the initrd. It is
	// written into the initrd's own memory if that is a memfd without seals
	// against it, else into a copy, and overwritten once it is loaded. May be nil.
	Handover func(io.Writer) error
}

// Loader loads and executes kernels. The zero value uses this machine's kernel.
type Loader struct {
	Syscalls Syscalls
}

// Check tells early why no kernel could be loaded: nothing is changed.
func (l *Loader) Check() error {
	const disabled = "/proc/sys/kernel/kexec_load_disabled"
	b, err := l.sys().ReadFile(disabled)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("kexec: %s is missing: %w", disabled, advice(unix.ENOSYS, ""))
	}
	if err != nil {
		return fmt.Errorf("kexec: read %s: %w", disabled, err)
	}
	if strings.TrimSpace(string(b)) != "0" {
		return fmt.Errorf("kexec: %s is set: loading a kernel is switched off until the machine is reset", disabled)
	}
	return nil
}

// Load gives p to the kernel, which replaces what was loaded before. On return
// the handover's bytes are nowhere but in the loaded image. An initrd that got
// a handover is used up: its memory is freed while the kernel still loads.
func (l *Loader) Load(ctx context.Context, p Payload) error {
	if err := l.Check(); err != nil {
		return err
	}
	initrd, err := withHandover(p.Initrd, p.Handover)
	if err != nil {
		return fmt.Errorf("append handover to initrd: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, initrd.close())
	}
	stop := initrd.shed()
	err = l.loadFile(p.Kernel, initrd.file, p.Cmdline)
	gone := stop()
	if !gone && (errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EINVAL)) {
		err = l.loadUnwrapped(p, initrd.file, err)
	}
	return errors.Join(err, initrd.close())
}

// loadUnwrapped tries again with the kernel inside p.Kernel, if there is one.
// Otherwise refused, the first error, stays.
func (l *Loader) loadUnwrapped(p Payload, initrd *os.File, refused error) error {
	inner, err := unwrap(p.Kernel)
	if err != nil {
		return fmt.Errorf("%w (and unwrapping it: %w)", refused, err)
	}
	if inner == nil {
		return refused
	}
	defer inner.Close()
	return l.loadFile(inner, initrd, p.Cmdline)
}

func (l *Loader) loadFile(kernel, initrd *os.File, cmdline string) error {
	fd, flags := -1, unix.KEXEC_FILE_NO_INITRAMFS
	if initrd != nil {
		fd, flags = int(initrd.Fd()), 0
	}
	err := l.sys().KexecFileLoad(int(kernel.Fd()), fd, cmdline, flags)
	if err != nil {
		lockdown, _ := l.sys().ReadFile("/sys/kernel/security/lockdown")
		return fmt.Errorf("load kernel %s: %w", kernel.Name(), advice(err, string(lockdown)))
	}
	return nil
}

// Exec calls quiesce (links down, file systems synced, whatever must not go on
// under the next kernel) and jumps into the loaded kernel. It returns only on
// error; when quiesce fails, nothing was executed.
func (l *Loader) Exec(ctx context.Context, quiesce func(context.Context) error) error {
	if quiesce != nil {
		if err := quiesce(ctx); err != nil {
			return fmt.Errorf("quiesce before kexec: %w", err)
		}
	}
	if err := l.sys().Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("execute loaded kernel: %w", err)
	}
	return errors.New("execute loaded kernel: the kernel returned without an error")
}

func (l *Loader) sys() Syscalls {
	if l.Syscalls != nil {
		return l.Syscalls
	}
	return linux{}
}

// linux is the running kernel.
type linux struct{}

func (linux) KexecFileLoad(kernel, initrd int, cmdline string, flags int) error {
	return unix.KexecFileLoad(kernel, initrd, cmdline, flags)
}
func (linux) Reboot(cmd int) error                 { return unix.Reboot(cmd) }
func (linux) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
