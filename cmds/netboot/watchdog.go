package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchdogPath = "/dev/watchdog"
	bite         = 60 * time.Second  // after the supervisor has stopped
	osBite       = 600 * time.Second // for the operating system to take over
)

// A watchdog resets the machine when the supervisor, or the kernel below it,
// has stopped. A nil watchdog is a machine without one.
type watchdog struct {
	file    *os.File
	petting context.Context
	stop    context.CancelFunc
}

func openWatchdog() *watchdog {
	f, err := os.OpenFile(watchdogPath, os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	w := &watchdog{file: f}
	w.petting, w.stop = context.WithCancel(context.Background())
	w.timeout(bite)
	go w.pet()
	return w
}

func (w *watchdog) pet() {
	t := time.NewTicker(bite / 4)
	defer t.Stop()
	for {
		_, _ = w.file.Write([]byte{0})
		select {
		case <-t.C:
		case <-w.petting.Done():
			return
		}
	}
}

// timeout is kept by the driver; some can only do some values.
func (w *watchdog) timeout(d time.Duration) {
	_ = unix.IoctlSetPointerInt(int(w.file.Fd()), unix.WDIOC_SETTIMEOUT, int(d.Seconds()))
}

// starve lets it reset the machine.
func (w *watchdog) starve() {
	if w != nil {
		w.stop()
	}
}

// handOver switches the watchdog off where the driver can, and otherwise gives
// the operating system time to feed it.
func (w *watchdog) handOver() {
	if w == nil {
		return
	}
	w.stop()
	w.timeout(osBite)
	_, _ = w.file.Write([]byte{'V'}) // the "magic close"
	_ = w.file.Close()
}
