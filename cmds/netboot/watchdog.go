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
	osBite       = 600 * time.Second // for who comes next: the operating system, or firmware
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
// stays on instead, and the operating system has that long to feed it, or as long
// as the driver can do.
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
		if left := w.leaveOn(within); left < within {
			printf("netboot: the watchdog gives the operating system %v, not the %v of the site config\n", left, within)
		}
		if !staysOn(stopOnReboot) {
			printf("netboot: the kernel may stop its watchdog before kexec: it needs watchdog.stop_on_reboot=0 on its command line\n")
		}
		return // not closed, which the kernel would complain of
	}
	if err := unix.IoctlSetPointerInt(int(w.file.Fd()), unix.WDIOC_SETOPTIONS, unix.WDIOS_DISABLECARD); err != nil {
		printf("netboot: the watchdog cannot be switched off (%v): the operating system has %v to feed it\n", err, w.leaveOn(osBite))
	}
	_, _ = w.file.Write([]byte{'V'}) // the "magic close"
	_ = w.file.Close()
}

// leaveOn feeds the watchdog for the last time. It returns how long the hardware
// then runs, at most within, as far as the driver says: the kernel, which may feed
// it in between, is gone after kexec.
func (w *watchdog) leaveOn(within time.Duration) time.Duration {
	left := w.timeout(within)
	_, _ = w.file.Write([]byte{0})
	if n, err := unix.IoctlGetInt(int(w.file.Fd()), unix.WDIOC_GETTIMELEFT); err == nil {
		left = min(left, time.Duration(n+1)*time.Second) // it counts down already
	}
	return left
}

// staysOn says whether the kernel's parameter keeps watchdogs on that their drivers
// would stop when it leaves.
func staysOn(parameter string) bool {
	b, err := os.ReadFile(parameter)
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// allowReset gives the firmware time after a reset that the watchdog may survive.
func (w *watchdog) allowReset() {
	if w != nil {
		w.timeout(osBite)
	}
}
