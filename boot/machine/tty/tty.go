// Package tty opens the machine's consoles, and waits until what was written has
// left the machine: it is for a program that u-root's init starts, and that ends
// the machine.
//
// Standard output is not for that: it is a pipe, which init copies to the consoles
// at its leisure. Nothing tells what is still in there, and it is lost when the
// machine ends.
package tty

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Console opens the machine's console: the device of the last console= option
// of the kernel's command line.
func Console() (*os.File, error) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the console: %w; does the kernel's command line name one, as in console=ttyS0,115200?", err)
	}
	return f, nil
}

// Consoles opens all of the machine's consoles, as the kernel lists them in
// /proc/consoles, and leaves out those that cannot be opened: such as one that
// is for the kernel alone. Writing to one that is stopped does not keep a thread.
func Consoles() []*os.File {
	list, err := os.ReadFile("/proc/consoles")
	if err != nil {
		return nil
	}
	var consoles []*os.File
	for _, name := range names(string(list)) {
		// Without O_NONBLOCK, opening a serial line may wait for a carrier.
		f, err := os.OpenFile(filepath.Join("/dev", name), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err == nil {
			consoles = append(consoles, f)
		}
	}
	return consoles
}

// names are the first fields of /proc/consoles, see the kernel's fs/proc/consoles.c.
func names(list string) []string {
	var names []string
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return names
}

// Drain waits until everything that was written to a terminal has left the
// machine: a serial line is slow. It returns os.ErrDeadlineExceeded when that
// takes longer than limit, and an error for what is no terminal.
func Drain(console *os.File, limit time.Duration) error {
	raw, err := console.SyscallConn()
	if err != nil {
		return fmt.Errorf("drain %s: %w", console.Name(), err)
	}
	sent := make(chan error, 1)
	go func() {
		var waited error
		err := raw.Control(func(fd uintptr) {
			waited = unix.EINTR
			for errors.Is(waited, unix.EINTR) { // the Go runtime sends itself signals
				waited = unix.IoctlSetInt(int(fd), unix.TCSBRK, 1) // tcdrain(3)
			}
		})
		sent <- errors.Join(err, waited)
	}()
	select {
	case err = <-sent:
	case <-time.After(limit):
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return fmt.Errorf("drain %s: %w", console.Name(), err)
	}
	return nil
}
