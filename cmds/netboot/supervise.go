package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// readPause lets a person read why the machine is about to be reset.
const readPause = 10 * time.Second

// A supervisor starts the worker and does what it says. Nothing that it says or
// does itself may wait for ever: not for a console, not for a device.
type supervisor struct {
	out consoles
	dog *watchdog
}

// supervise never returns.
func supervise() {
	var s supervisor
	// Whatever happens below, this process ends in a reset.
	defer s.reset(unix.LINUX_REBOOT_CMD_RESTART)
	defer func() {
		if r := recover(); r != nil {
			unload()
			s.printf("\n FAILED     netboot: %v; reset\n", r)
			time.Sleep(readPause)
		}
	}()
	s.harden()
	s.dog = openWatchdog(s.printf)
	outcome, err := runWorker(s.out, workerPatience)
	if outcome != flow.Kexec {
		unload()
	}
	if err != nil {
		s.printf("\n FAILED     %v; reset, since it is not known what it has done\n", err)
	}
	s.finish(outcome)
}

func (s *supervisor) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// harden takes away what could stop or divert a boot from the keyboard. It also
// opens the consoles, which need /proc and /dev.
func (s *supervisor) harden() {
	unmounted := loader.Mounts()
	s.out = openConsoles()
	for _, err := range unmounted {
		s.printf("netboot: %v\n", err)
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGPIPE)
	write("/proc/sys/kernel/sysrq", "0")
	write("/proc/sys/kernel/panic", "10")
	write("/proc/sys/kernel/printk", "4") // errors; init has let warnings in, which break into lines
	write("/proc/self/oom_score_adj", "-1000")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// write sets a knob that a small kernel may not have.
func write(path, value string) { _ = os.WriteFile(path, []byte(value), 0) }

// finish does what the worker said.
func (s *supervisor) finish(o flow.Outcome) {
	switch o {
	case flow.Kexec:
		s.dog.handOver(s.printf, osTime())
		s.out.Drain(time.Second)
		s.reset(unix.LINUX_REBOOT_CMD_KEXEC)
		unload()
		s.printf("\n FAILED     kexec: the kernel did not start; reset\n")
	case flow.Poweroff:
		time.Sleep(readPause)
		s.reset(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case flow.Shell:
		s.shell()
	}
	time.Sleep(readPause)
}

// shell runs the shell of an initramfs that was built with one. The marker is
// in the image PCR, so nothing is released any more until the reset.
func (s *supervisor) shell() {
	if site, _, err := config.ReadSite(config.SitePath); err != nil || !site.Shell {
		return
	}
	for _, path := range []string{"/bin/sh", "/bbin/sh", "/bbin/gosh", "/bin/defaultsh"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		signal.Reset(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP)
		cmd := exec.Command(path)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = []string{"PATH=/bin:/bbin", "HOME=/", "TERM=" + os.Getenv("TERM")}
		s.printf("\n a shell; the machine is reset when it ends\n")
		s.out.Drain(time.Second)
		_ = cmd.Run()
		return
	}
}

// osTime is how long the site's operating system has to take over the watchdog.
func osTime() time.Duration {
	site, _, err := config.ReadSite(config.SitePath)
	if err != nil {
		return 0 // the worker has refused to boot with it
	}
	return time.Duration(site.Watchdog) * time.Second
}

// unload drops a kernel that was loaded and will not be started, and with it the
// handover in its initrd. Like the worker's memory, the kernel clears what it frees.
func unload() { _ = unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD) }

// How long the kernel may take to leave. It writes what is left for disks, and
// shuts its devices down one by one: for a TPM that does not answer it waits two
// minutes, for a disk that does not, for ever.
const (
	resetPatience    = 20 * time.Second
	powerOffPatience = 3 * time.Minute // there is no harder way to switch off
)

// reset does not return if the kernel obeys. If it hangs instead, the machine is
// reset without asking any device: a kernel whose init ends panics, and does just that.
func (s *supervisor) reset(how int) {
	refused := make(chan struct{})
	go func() {
		unix.Sync()
		if how == unix.LINUX_REBOOT_CMD_RESTART {
			s.dog.allowReset()
		}
		_ = unix.Reboot(how)
		close(refused)
	}()
	within := resetPatience
	if how == unix.LINUX_REBOOT_CMD_POWER_OFF {
		within = powerOffPatience
	}
	select {
	case <-refused:
		return
	case <-time.After(within):
	}
	s.printf("\n the kernel hangs in a device's shutdown: reset without it, by a panic\n")
	s.dog.starve()
	s.out.Drain(time.Second)
	write("/proc/sys/kernel/panic", "1")
	_ = unix.Kill(1, unix.SIGTERM) // u-root's init does not catch it
	time.Sleep(readPause)
}
