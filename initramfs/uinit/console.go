// Package uinit gives a program that u-root's init starts, and that ends the
// machine, a console on which its last words arrive.
//
// Standard output is not that: it is a pipe, which init copies to the consoles
// at its leisure. Nothing tells what is still in there, and it is lost when the
// machine ends.
package uinit

import (
	"errors"
	"fmt"
	"os"
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
