package main

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/boot/machine/tty"
)

// consoles are the machine's, each written on its own: a serial line that takes
// nothing does not silence the screen. Standard output would not do: it is a
// pipe that init copies, and what is still in it is lost when the machine ends.
type consoles []terminal

type terminal struct {
	*console.Relay
	file *os.File
}

func openConsoles() consoles {
	files := tty.Consoles()
	if len(files) == 0 {
		files = []*os.File{os.Stdout}
	}
	var c consoles
	for _, f := range files {
		noStopKey(f)
		c = append(c, terminal{console.NewRelay(f), f})
	}
	return c
}

// Write never waits and never fails.
func (c consoles) Write(p []byte) (int, error) {
	for _, t := range c {
		_, _ = t.Relay.Write(p)
	}
	return len(p), nil
}

// Drain waits until everything has left the machine, at most for d a console
// and twice for one that takes nothing.
func (c consoles) Drain(d time.Duration) {
	var wg sync.WaitGroup
	for _, t := range c {
		wg.Go(func() {
			t.Relay.Drain(d)
			_ = tty.Drain(t.file, d) // a pipe has nothing to drain
		})
	}
	wg.Wait()
}

// noStopKey makes a terminal ignore Ctrl-S, which noise on a serial line can be too.
func noStopKey(terminal *os.File) {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil {
			return // no terminal
		}
		t.Iflag &^= unix.IXON
		_ = unix.IoctlSetTermios(int(fd), unix.TCSETS, t)
	})
}
