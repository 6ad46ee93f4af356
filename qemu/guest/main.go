// Command guest is the uinit of the harness's own tests. It prints what a
// machine offers to a loader, does what the option guest.do= of the kernel's
// command line asks for, and powers off.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/machine/tty"
)

func main() {
	if console, err := tty.Console(); err != nil {
		fmt.Printf("guest: %v\n", err)
	} else {
		os.Stdout = console
	}
	fmt.Println("guest: hello")
	exit, err := run()
	if err != nil {
		fmt.Printf("guest: failed: %v\n", err)
	}
	if exit {
		return
	}
	fmt.Println("guest: bye")
	if err := end(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Printf("guest: power off: %v\n", err)
	}
}

// end ends this system when all that it had to say was said.
func end(how int) error {
	if err := tty.Drain(os.Stdout, time.Minute); err != nil {
		return err
	}
	unix.Sync()
	return unix.Reboot(how)
}

// run does the work; exit means that the program should end as a crashed
// uinit would.
func run() (exit bool, err error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, err
	}
	fmt.Printf("guest: cmdline %s\n", strings.TrimSpace(string(cmdline)))
	if err := facts(); err != nil {
		return false, err
	}
	switch option(string(cmdline), "guest.do") {
	case "exit":
		return true, nil
	case "fail":
		os.Exit(1)
	case "kill":
		return false, unix.Kill(os.Getpid(), unix.SIGKILL)
	case "reset":
		return false, end(unix.LINUX_REBOOT_CMD_RESTART)
	case "print":
		return false, printLines()
	case "kexec":
		return false, kexec()
	case "net":
		return false, dial(option(string(cmdline), "guest.dial"))
	case "echo":
		return false, echo()
	case "secret":
		return false, secret(option(string(cmdline), "guest.secret"))
	case "wait":
		time.Sleep(time.Hour)
	}
	return false, nil
}

func option(cmdline, name string) string {
	for _, word := range strings.Fields(cmdline) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

func facts() error {
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return err
	}
	fmt.Printf("guest: event log %d bytes\n", len(log))
	for _, pcr := range []string{"0", "4", "11", "12"} {
		value, err := os.ReadFile("/sys/class/tpm/tpm0/pcr-sha256/" + pcr)
		if err != nil {
			return err
		}
		fmt.Printf("guest: pcr %s %s\n", pcr, strings.TrimSpace(string(value)))
	}
	place, err := memattrPlace()
	if err != nil {
		return err
	}
	fmt.Printf("guest: memory attributes table in %q\n", place)
	iommus, err := names("/sys/class/iommu")
	if err != nil {
		return err
	}
	groups, err := names("/sys/kernel/iommu_groups")
	if err != nil {
		return err
	}
	fmt.Printf("guest: iommus %q with %d groups of devices\n", iommus, len(groups))
	now, err := os.ReadFile("/sys/class/rtc/rtc0/date")
	if err != nil {
		return err
	}
	fmt.Printf("guest: date %s\n", strings.TrimSpace(string(now)))
	for _, name := range []string{"opt/sealboot/test", "opt/sealboot/absent"} {
		value, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/" + name + "/raw")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		fmt.Printf("guest: fw_cfg %s %q\n", name, value)
	}
	return nil
}

// names are those in a directory, if there is one.
func names(dir string) (all []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, nil
}

// printLines prints more than fits into a serial port's buffers.
func printLines() error {
	var text strings.Builder
	for i := 1; i <= 1000; i++ {
		fmt.Fprintf(&text, "guest: line %d %s\n", i, strings.Repeat(".", 44))
	}
	_, err := io.WriteString(os.Stdout, text.String())
	return err
}

// dial fetches one line from a TCP server.
func dial(addr string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	ip, err := netlink.ParseAddr("10.0.2.15/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, ip); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", addr, 30*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	line, err := io.ReadAll(io.LimitReader(conn, 100))
	if err != nil {
		return err
	}
	fmt.Printf("guest: got %q\n", line)
	return nil
}

// echo returns one line on the second serial port.
func echo() error {
	port, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	fmt.Println("guest: listening")
	line := make([]byte, 4)
	if _, err := io.ReadFull(port, line); err != nil {
		return err
	}
	_, err = fmt.Fprintf(port, "<%s>", line)
	return err
}

// kexec starts KERNEL with INITRD from the first partition of the second disk.
func kexec() error {
	if err := unix.Mount("/dev/vdb1", "/tmp", "vfat", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting /dev/vdb1: %w", err)
	}
	kernel, err := os.Open("/tmp/KERNEL")
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := os.Open("/tmp/INITRD")
	if err != nil {
		return err
	}
	defer initrd.Close()
	begin := time.Now()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), "console=ttyS0,115200 panic=10 no_timer_check guest.second", 0); err != nil {
		return fmt.Errorf("kexec_file_load: %w", err)
	}
	fmt.Printf("guest: loaded in %v\n", time.Since(begin).Round(time.Millisecond))
	return end(unix.LINUX_REBOOT_CMD_KEXEC)
}

// secret fills memory with the complement of a word's hash, which stands nowhere else,
// and then gives the memory back. After each step it waits for a byte on the second
// serial port.
func secret(word string) error {
	port, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	mem, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mapping memory: %w", err)
	}
	sum := sha256.Sum256([]byte(word))
	for i := range mem {
		mem[i] = ^sum[i%len(sum)]
	}
	fmt.Println("guest: secret in memory")
	if _, err := io.ReadFull(port, make([]byte, 1)); err != nil {
		return err
	}
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("giving memory back: %w", err)
	}
	fmt.Println("guest: secret given back")
	_, err = io.ReadFull(port, make([]byte, 1))
	return err
}
