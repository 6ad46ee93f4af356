package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// readPause lets a person read why the machine is about to be reset.
const readPause = 10 * time.Second

// supervise runs the worker and does what it says. It never returns.
func supervise() {
	// Whatever happens below, this process ends in a reset.
	defer reset(unix.LINUX_REBOOT_CMD_RESTART)
	defer func() {
		if r := recover(); r != nil {
			fmt.Printf("\nnetboot: %v\n", r)
		}
	}()
	harden()
	dog := openWatchdog()
	outcome, err := runWorker()
	if outcome != flow.Kexec {
		unload()
	}
	if err != nil {
		fmt.Printf("\n FAILED     %v; reset, since nobody knows what it has done\n", err)
	}
	finish(outcome, dog)
}

// harden takes away what could stop or divert a boot from the keyboard.
func harden() {
	for _, err := range loader.Mounts() {
		fmt.Printf("netboot: %v\n", err)
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGPIPE)
	write("/proc/sys/kernel/sysrq", "0")
	write("/proc/sys/kernel/panic", "10")
	write("/proc/self/oom_score_adj", "-1000")
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// write sets a knob that a small kernel may not have.
func write(path, value string) { _ = os.WriteFile(path, []byte(value), 0) }

// runWorker starts this program once more and waits for it.
func runWorker() (flow.Outcome, error) {
	cmd := exec.Command("/proc/self/exe", workerArg)
	cmd.Args[0] = "netboot" // a busybox goes by the name
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"GOMEMLIMIT=" + strconv.FormatInt(heapLimit(), 10)}
	// Without the terminal no key reaches the worker; without its supervisor
	// it must not go on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return flow.Reboot, fmt.Errorf("start the worker: %w", err)
	}
	// If memory runs out, it is the worker that goes.
	write(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "oom_score_adj"), "500")
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return flow.Reboot, fmt.Errorf("wait for the worker: %w", err)
	}
	outcome, err := outcomeOf(cmd.ProcessState.ExitCode())
	if err != nil {
		return outcome, fmt.Errorf("%w: %v", err, cmd.ProcessState)
	}
	return outcome, nil
}

const (
	minHeap = 48 << 20
	maxHeap = 256 << 20
)

// heapLimit is where Go's collector starts to work hard, in bytes. Images are
// not on the heap, so a quarter of a small machine is plenty.
func heapLimit() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return minHeap
	}
	total := int64(info.Totalram) * int64(info.Unit)
	return min(maxHeap, max(minHeap, total/4))
}

// finish does what the worker said.
func finish(o flow.Outcome, dog *watchdog) {
	switch o {
	case flow.Kexec:
		dog.handOver()
		reset(unix.LINUX_REBOOT_CMD_KEXEC)
		unload()
		fmt.Println("\n FAILED     kexec: the kernel did not start; reset")
	case flow.Poweroff:
		time.Sleep(readPause)
		reset(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case flow.Shell:
		shell()
	}
	time.Sleep(readPause)
}

// shell runs the shell of an initramfs that was built with one. The marker is
// in the image PCR, so nothing is released any more until the reset.
func shell() {
	raw, err := config.ReadSite(config.SitePath)
	if err != nil {
		return
	}
	if site, err := config.ParseSite(raw); err != nil || !site.Shell {
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
		fmt.Println("\n a shell; the machine is reset when it ends")
		_ = cmd.Run()
		return
	}
}

// unload drops a kernel that was loaded and will not be started, and with it the
// handover in its initrd. Like the worker's memory, the kernel clears what it frees.
func unload() { _ = unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD) }

// reset does not return if the kernel obeys.
func reset(how int) {
	unix.Sync()
	_ = unix.Reboot(how)
}
