package main

import (
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchdogPath = "/dev/watchdog"
	stopOnReboot = "/sys/module/watchdog/parameters/stop_on_reboot"
	bite         = 60 * time.Second  // after the supervisor has stopped
	osBite       = 600 * time.Second // for the operating system to take over
)

// A watchdog resets the machine when the supervisor, or the kernel below it,
// has stopped. A nil watchdog is a machine without one.
type watchdog struct {
	file *os.File
	stop context.CancelFunc
	quit chan struct{} // closed when pet has ended
}

func openWatchdog(printf func(string, ...any)) *watchdog {
	f, err := os.OpenFile(watchdogPath, os.O_WRONLY, 0)
	if err != nil {
		printf("netboot: no watchdog: %v; a kernel that hangs stays so\n", err)
		return nil
	}
	petting, stop := context.WithCancel(context.Background())
	w := &watchdog{file: f, stop: stop, quit: make(chan struct{})}
	w.timeout(bite)
	go w.pet(petting)
	return w
}

func (w *watchdog) pet(petting context.Context) {
	defer close(w.quit)
	t := time.NewTicker(bite / 4)
	defer t.Stop()
	for {
		_, _ = w.file.Write([]byte{0})
		select {
		case <-t.C:
		case <-petting.Done():
			return
		}
	}
}

// timeout asks the driver for d or, if that is more than it can do, for as much
// as it takes. It returns what is set; 0 is not known.
func (w *watchdog) timeout(d time.Duration) time.Duration {
	fd := int(w.file.Fd())
	for ; d >= bite/4; d /= 2 {
		if unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(d.Seconds())) == nil {
			break
		}
	}
	n, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// starve lets it reset the machine.
func (w *watchdog) starve() {
	if w != nil {
		w.stop()
	}
}

// handOver switches the watchdog off. If within is not 0, or the driver cannot, it
// stays on instead, and the operating system has that long to feed it.
func (w *watchdog) handOver(printf func(string, ...any), within time.Duration) {
	if w == nil {
		return
	}
	w.stop()
	select {
	case <-w.quit: // or what it writes would take back the "magic close"
	case <-time.After(time.Second):
	}
	if within != 0 {
		w.leaveOn(printf, within)
		return
	}
	if err := unix.IoctlSetPointerInt(int(w.file.Fd()), unix.WDIOC_SETOPTIONS, unix.WDIOS_DISABLECARD); err != nil {
		left := w.leaveOn(func(string, ...any) {}, osBite)
		printf("netboot: the watchdog cannot be switched off (%v): the operating system has %v to feed it\n", err, left)
	}
	_, _ = w.file.Write([]byte{'V'}) // the "magic close"
	_ = w.file.Close()
}

// leaveOn feeds the watchdog for the last time. It is not closed, which the kernel
// would complain of, and says what falls short of within.
func (w *watchdog) leaveOn(printf func(string, ...any), within time.Duration) time.Duration {
	left := w.timeout(within)
	_, _ = w.file.Write([]byte{0})
	if left < within {
		printf("netboot: the watchdog leaves the operating system %v of the %v in the site config\n", left, within)
	}
	if b, err := os.ReadFile(stopOnReboot); err != nil || strings.TrimSpace(string(b)) != "0" {
		printf("netboot: the kernel may stop its watchdog before kexec: it needs watchdog.stop_on_reboot=0 on its command line\n")
	}
	return left
}
