package qemu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/sealboot/sealboot/qemu/child"
)

// VM is a running machine. Its methods may be called from several goroutines.
type VM struct {
	accel   Accel
	ram     int64 // bytes
	console *console
	log     *os.File
	input   io.WriteCloser
	serial  net.Conn
	qemu    *child.Process
	tpm     *child.Process // nil without a TPM
	qmp     *qmp
	diag    bytes.Buffer // QEMU's stderr; read it after the process is gone

	mu     sync.Mutex
	exit   Exit
	stop   bool
	ended  chan struct{}
	resets chan struct{}
}

// Exit says how a machine ended.
type Exit struct {
	// Reason is QEMU's word: "guest-shutdown" (power off), "guest-reset" (with
	// Config.NoReboot), "host-qmp-quit" (Stop), "" when QEMU itself failed.
	Reason string
	// Panic is the kernel's last word, if it had one.
	Panic string
	// Watchdog says that the machine's watchdog has bitten.
	Watchdog bool
}

// Start runs a machine. It runs until the guest powers off, Stop is called, or
// ctx ends; Stop must be called in any case.
func Start(ctx context.Context, c Config) (*VM, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	vars, err := c.prepare()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.ConsoleLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("qemu: console log: %w", err)
	}
	vm := &VM{accel: c.Accel, ram: int64(c.memory()) << 20, log: log, ended: make(chan struct{}), resets: make(chan struct{}, 64)}
	if vm.accel == "" {
		vm.accel = Probe()
	}
	vm.console = newConsole(log)
	if c.Console != nil {
		vm.console.copies = append(vm.console.copies, c.Console)
	}
	if err := vm.launch(&c, vars); err != nil {
		vm.release()
		return nil, err
	}
	go vm.watch(ctx)

	ctx, cancel := context.WithTimeout(ctx, vm.accel.Deadline(10*time.Second))
	defer cancel()
	if _, err := vm.qmp.run(ctx, "qmp_capabilities", nil); err != nil {
		vm.Stop()
		return nil, fmt.Errorf("%w: %s", err, lastLine(vm.diag.String()))
	}
	if c.Unplugged {
		if err := vm.SetLink(ctx, false); err != nil {
			vm.Stop()
			return nil, err
		}
	}
	return vm, nil
}

// prepare makes the machine's directory and its own copy of the firmware's
// variables, which a later start finds again.
func (c *Config) prepare() (vars string, err error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return "", fmt.Errorf("qemu: machine directory: %w", err)
	}
	vars = filepath.Join(c.Dir, "firmware-vars.fd")
	if _, err := os.Stat(vars); err == nil {
		return vars, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("qemu: firmware variables: %w", err)
	}
	content, err := os.ReadFile(ovmf.vars)
	if err != nil {
		return "", fmt.Errorf("qemu: firmware (package ovmf): %w", err)
	}
	if err := os.WriteFile(vars, content, 0o600); err != nil {
		return "", fmt.Errorf("qemu: firmware variables: %w", err)
	}
	return vars, nil
}

// launch starts the TPM and QEMU, connected by sockets that have no name: no
// stale path, nothing to wait for, and closing them ends the peer.
func (vm *VM) launch(c *Config, vars string) error {
	control, controlFD, err := connPair("qmp")
	if err != nil {
		return err
	}
	defer controlFD.Close()
	vm.qmp = newQMP(control, vm.event)
	var serialFD *os.File
	vm.serial, serialFD, err = connPair("serial")
	if err != nil {
		return err
	}
	defer serialFD.Close()
	files := []*os.File{fdQMP - 3: controlFD, fdSerial - 3: serialFD}
	if c.TPM != "" {
		tpm, tpmFD, err := startTPM(c.TPM, c.TPMFilter)
		if err != nil {
			return err
		}
		defer tpmFD.Close()
		vm.tpm = tpm
		files = append(files, tpmFD)
	}
	cmd := exec.Command("qemu-system-x86_64", c.args(vm.accel, vars)...)
	cmd.ExtraFiles = files
	cmd.Stdout = vm.console
	cmd.Stderr = &vm.diag
	if vm.input, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("qemu: console: %w", err)
	}
	if vm.qemu, err = child.Start(cmd); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return nil
}

// event keeps what QEMU says about the machine's fate.
func (vm *VM) event(name, reason string) {
	switch name {
	case "RESET":
		select {
		case vm.resets <- struct{}{}:
		default: // no one reads, and 64 are enough for anybody
		}
	case "WATCHDOG":
		vm.mu.Lock()
		vm.exit.Watchdog = true
		vm.mu.Unlock()
	case "SHUTDOWN":
		vm.mu.Lock()
		vm.exit.Reason = cmp.Or(vm.exit.Reason, reason)
		vm.mu.Unlock()
	}
}

// watch ends the machine with its context, and cleans up when it has ended.
func (vm *VM) watch(ctx context.Context) {
	select {
	case <-vm.qemu.Done():
	case <-ctx.Done():
		vm.qemu.Kill()
	}
	vm.release()
	vm.mu.Lock()
	if m := panicLine.FindStringSubmatch(vm.console.String()); m != nil {
		vm.exit.Panic = m[1]
	}
	vm.mu.Unlock()
	close(vm.ended)
}

var panicLine = regexp.MustCompile(`Kernel panic - not syncing: ([^\r\n]*)`)

// release frees everything that was started, in the order in which the parts
// depend on each other.
func (vm *VM) release() {
	if vm.qemu != nil {
		vm.qemu.Kill()
		vm.input.Close()
	}
	if vm.tpm != nil {
		select { // it ends by itself when QEMU has gone, its state written
		case <-vm.tpm.Done():
		case <-time.After(5 * time.Second):
		}
		vm.tpm.Kill()
	}
	if vm.qmp != nil {
		vm.qmp.conn.Close()
	}
	if vm.serial != nil {
		vm.serial.Close()
	}
	vm.console.end()
	vm.log.Close()
}

// Accel returns how the machine's processor runs.
func (vm *VM) Accel() Accel { return vm.accel }

// PID returns the process number of QEMU, for measuring it.
func (vm *VM) PID() int { return vm.qemu.PID() }

// Serial is the machine's second serial port, /dev/ttyS1 in the guest.
func (vm *VM) Serial() net.Conn { return vm.serial }

// Output returns what the console has printed so far, at most 64 MiB.
func (vm *VM) Output() string { return vm.console.String() }

// Expect waits until the console prints something that matches re, after what
// the last Expect matched, and returns the match and its groups. The time within
// is for real hardware and is stretched by Accel.Deadline; errors are ErrDeadline and
// ErrExited, with the console's last lines, and where the processors are.
func (vm *VM) Expect(ctx context.Context, re string, within time.Duration) ([]string, error) {
	compiled, err := regexp.Compile(re)
	if err != nil {
		return nil, fmt.Errorf("qemu: pattern: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, vm.accel.Deadline(within))
	defer cancel()
	groups, err := vm.console.expect(ctx, compiled)
	if errors.Is(err, ErrDeadline) {
		err = fmt.Errorf("%w; %s", err, vm.processors())
	}
	return groups, err
}

// Type sends text to the console.
func (vm *VM) Type(text string) error {
	if _, err := io.WriteString(vm.input, text); err != nil {
		return fmt.Errorf("qemu: typing on the console: %w", err)
	}
	return nil
}

// Wait waits until the machine has ended by itself, at most within, stretched
// by Accel.Deadline. An error of QEMU itself is returned as such.
func (vm *VM) Wait(ctx context.Context, within time.Duration) (Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, vm.accel.Deadline(within))
	defer cancel()
	select {
	case <-vm.ended:
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("%w waiting for the machine's end: %w; last lines: %s; %s", ErrDeadline, ctx.Err(), tail([]byte(vm.Output())), vm.processors())
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.qemu.Err() != nil && !vm.stop {
		return vm.exit, fmt.Errorf("qemu: %w: %s", vm.qemu.Err(), lastLine(vm.diag.String()))
	}
	return vm.exit, nil
}

// Done is closed when the machine has ended and everything is released.
func (vm *VM) Done() <-chan struct{} { return vm.ended }

// Resets receives a value each time the guest is reset.
func (vm *VM) Resets() <-chan struct{} { return vm.resets }

// Stop pulls the plug and waits until nothing is left. It may be called again,
// and after the machine has ended.
func (vm *VM) Stop() {
	vm.mu.Lock()
	vm.stop = true
	vm.exit.Reason = cmp.Or(vm.exit.Reason, "host-qmp-quit")
	vm.mu.Unlock()
	// QEMU is asked first, so that disk images are closed properly.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := vm.qmp.run(ctx, "quit", nil); err == nil {
		select {
		case <-vm.ended:
		case <-ctx.Done():
		}
	}
	vm.qemu.Kill()
	<-vm.ended
}

// SetLink plugs the network cable in or pulls it.
func (vm *VM) SetLink(ctx context.Context, up bool) error {
	_, err := vm.qmp.run(ctx, "set_link", map[string]any{"name": "nic0", "up": up})
	return err
}
