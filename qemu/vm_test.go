//go:build vm

package qemu_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/board/kernel"
	"github.com/sealboot/sealboot/initramfs"
	"github.com/sealboot/sealboot/initramfs/esp"
	"github.com/sealboot/sealboot/qemu"
)

var guestOptions = initramfs.Options{Source: "..", Commands: []string{"./qemu/guest"}, Uinit: "guest"}

// machine returns a machine that boots the guest by UKI with the command line,
// and has a TPM of its own.
func machine(t *testing.T, cmdline string) qemu.Config {
	t.Helper()
	dir := t.TempDir()
	options := board.Options{Initramfs: guestOptions, Out: dir, Cmdline: "console=ttyS0,115200 panic=1 no_timer_check " + cmdline}
	loader, err := board.QEMU().Build(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	tpm := filepath.Join(dir, "tpm")
	if err := qemu.CreateTPM(t.Context(), tpm, qemu.TPMOptions{}); err != nil {
		t.Fatal(err)
	}
	return qemu.Config{Dir: filepath.Join(dir, "vm"), Boot: loader.ESPPath(), TPM: tpm, NoReboot: true}
}

func start(t *testing.T, c qemu.Config) *qemu.VM {
	t.Helper()
	vm, err := qemu.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.Stop()
		if t.Failed() {
			t.Logf("console:\n%s", vm.Output())
		}
	})
	return vm
}

func expect(t *testing.T, vm *qemu.VM, re string) []string {
	t.Helper()
	m, err := vm.Expect(t.Context(), re, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wait(t *testing.T, vm *qemu.VM, want qemu.Exit) {
	t.Helper()
	got, err := vm.Wait(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("exit %+v, want %+v", got, want)
	}
}

const zeroPCR = "0000000000000000000000000000000000000000000000000000000000000000"

// TestFirmwareMeasuresTheLoader also shows that all that a uinit prints arrives,
// though it ends the machine right behind it.
func TestFirmwareMeasuresTheLoader(t *testing.T) {
	c := machine(t, "guest.do=print")
	c.RTC = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	c.FWCfg = map[string]string{"opt/sealboot/test": filepath.Join(t.TempDir(), "value")}
	if err := os.WriteFile(c.FWCfg["opt/sealboot/test"], []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := start(t, c)
	expect(t, vm, `guest: event log [1-9]\d{3} bytes`)
	pcr := map[string]string{}
	for _, n := range []string{"0", "4", "11", "12"} {
		pcr[n] = expect(t, vm, `guest: pcr `+n+` ([0-9A-F]{64})`)[1]
	}
	expect(t, vm, `guest: date 2001-02-03`)
	expect(t, vm, `guest: fw_cfg opt/sealboot/test "hello"`)
	expect(t, vm, `guest: fw_cfg opt/sealboot/absent ""`)
	expect(t, vm, `guest: line 1000 `)
	expect(t, vm, `guest: bye`)
	wait(t, vm, qemu.Exit{Reason: "guest-shutdown"})
	for _, n := range []string{"0", "4", "11"} {
		if pcr[n] == zeroPCR {
			t.Errorf("PCR %s is zero: nothing measured", n)
		}
	}
	if pcr["12"] != zeroPCR {
		t.Errorf("PCR 12 is %s before the loader has measured anything", pcr["12"])
	}

	// The same machine again: its firmware variables persist, PCRs start anew.
	c.FWCfg, c.RTC = nil, time.Time{}
	again := start(t, c)
	for _, n := range []string{"0", "4", "11"} {
		if got := expect(t, again, `guest: pcr `+n+` ([0-9A-F]{64})`)[1]; got != pcr[n] {
			t.Errorf("PCR %s is %s in the second boot, was %s", n, got, pcr[n])
		}
	}
	wait(t, again, qemu.Exit{Reason: "guest-shutdown"})
}

// TestEndOfUinit shows that a loader whose program ends, however it does, resets:
// there is no shell to fall into.
func TestEndOfUinit(t *testing.T) {
	dir := t.TempDir()
	image, initrd := guestFiles(t)
	c := qemu.Config{Dir: dir, Kernel: image, Initrd: filepath.Join(dir, "initrd"), TPM: filepath.Join(dir, "tpm"), NoReboot: true}
	if err := errors.Join(os.WriteFile(c.Initrd, initrd, 0o600), qemu.CreateTPM(t.Context(), c.TPM, qemu.TPMOptions{})); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"exit", "fail", "kill"} {
		t.Run(how, func(t *testing.T) {
			c.Cmdline = "console=ttyS0,115200 panic=1 no_timer_check guest.do=" + how
			exit, err := start(t, c).Wait(t.Context(), 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if exit.Reason != "guest-reset" || !strings.HasPrefix(exit.Panic, "Attempted to kill init!") {
				t.Errorf("exit %+v, want a panic and a reset", exit)
			}
		})
	}
}

// guestFiles are the path of the loader's kernel, and an initramfs with the guest.
func guestFiles(t *testing.T) (kernelPath string, initrd []byte) {
	t.Helper()
	config, err := board.QEMU().Kernel()
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Build(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if initrd, err = initramfs.Build(t.Context(), guestOptions); err != nil {
		t.Fatal(err)
	}
	return k.Image, initrd
}

func TestReset(t *testing.T) {
	c := machine(t, "guest.do=reset")
	c.NoReboot = false
	vm := start(t, c)
	expect(t, vm, `guest: hello`)
	expect(t, vm, `guest: hello`)
	select {
	case <-vm.Resets():
	default:
		t.Error("the reset was not reported")
	}
}

func TestNetworkReachesLoopback(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "from the host")
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, tt := range []struct {
		name            string
		isolated, iommu bool
		want            string
	}{
		{"open", false, false, `guest: got "from the host"`},
		{"isolated", true, false, `guest: failed: dial tcp`},
		{"behind a bridge and an IOMMU", false, true, `guest: got "from the host"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := machine(t, "guest.do=net guest.dial=10.0.2.2:"+port)
			c.Isolated, c.IOMMU = tt.isolated, tt.iommu
			vm := start(t, c)
			expectIOMMU(t, vm, tt.iommu)
			expect(t, vm, regexp.QuoteMeta(tt.want))
		})
	}
}

func TestSecondSerialPort(t *testing.T) {
	vm := start(t, machine(t, "guest.do=echo"))
	expect(t, vm, `guest: listening`)
	if _, err := vm.Serial().Write([]byte("abcd\n")); err != nil {
		t.Fatal(err)
	}
	_ = vm.Serial().SetReadDeadline(time.Now().Add(vm.Accel().Deadline(5 * time.Second)))
	got := make([]byte, 64)
	var text string
	for !strings.Contains(text, "<abcd>") {
		n, err := vm.Serial().Read(got)
		if err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		text += string(got[:n])
	}
}

// expectIOMMU finds the kernel's IOMMU on, with the machine's devices in it, or none.
func expectIOMMU(t *testing.T, vm *qemu.VM, on bool) {
	t.Helper()
	want := `guest: iommus \[\] with 0 groups`
	if on {
		want = `guest: iommus \["dmar0"\] with [1-9]\d* groups`
	}
	expect(t, vm, want)
}

// TestKexecWithIOMMU starts a second kernel where the first one has the IOMMU on,
// which must not be in the way of the second one's devices.
func TestKexecWithIOMMU(t *testing.T) { testKexec(t, true) }

// TestKexec starts a second kernel and finds the firmware's event log whole and
// the PCRs unchanged there. The image that kexec copies to its place must not
// overwrite what else the second kernel finds by firmware's pointers.
func TestKexec(t *testing.T) { testKexec(t, false) }

func testKexec(t *testing.T, iommu bool) {
	path, initrd := guestFiles(t)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := esp.Create(disk, map[string][]byte{"KERNEL": image, "INITRD": initrd}); err != nil {
		t.Fatal(err)
	}
	c := machine(t, "guest.do=kexec")
	c.Disks, c.IOMMU = []qemu.Disk{{Path: disk, ReadOnly: true}}, iommu
	vm := start(t, c)
	size := expect(t, vm, `guest: event log (\d+) bytes`)[1]
	pcr4 := expect(t, vm, `guest: pcr 4 (\w+)`)[1]
	if place := expect(t, vm, `guest: memory attributes table in "([^"]*)"`)[1]; place != "Reserved" {
		t.Errorf("firmware's memory attributes table is in %q, where kexec writes; want it in %q", place, "Reserved")
	}
	expectIOMMU(t, vm, iommu)
	expect(t, vm, `guest: loaded in`)
	expect(t, vm, `guest: cmdline .*guest.second`)
	expect(t, vm, `guest: event log `+size+` bytes`)
	expect(t, vm, `guest: pcr 4 `+pcr4)
	expectIOMMU(t, vm, iommu)
	wait(t, vm, qemu.Exit{Reason: "guest-shutdown"})
}

// TestStop pulls the plug of a machine that waits, and finds nothing left. Anyone who
// waited for it in vain learns where its processors are.
func TestStop(t *testing.T) {
	vm := start(t, machine(t, "guest.do=wait"))
	expect(t, vm, `guest: hello`)
	_, err := vm.Wait(t.Context(), time.Millisecond)
	where := regexp.MustCompile(`processors: \[0\] RIP=[0-9a-f]{16} .*CPL=\d.* HLT=\d; [0-9a-f]+:( 0x[0-9a-f]{2}){8}.*\[1\] RIP=`)
	if !errors.Is(err, qemu.ErrDeadline) || !where.MatchString(err.Error()) {
		t.Errorf("Wait: %v, want ErrDeadline and the processors", err)
	}
	pid := vm.PID()
	vm.Stop()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !os.IsNotExist(err) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if _, err := vm.Expect(context.Background(), "never", time.Second); err == nil {
		t.Error("Expect found something on the console of a stopped machine")
	}
}

// TestFreedMemoryIsCleared looks for a secret in a machine's memory after the
// program that had it gave its pages back. The board's kernel clears what is freed,
// though it does not clear all memory at boot. With that switched off, the secret
// is there: the test can fail.
func TestFreedMemoryIsCleared(t *testing.T) {
	word := t.Name()
	secret := sha256.Sum256([]byte(word))
	for i, b := range secret {
		secret[i] = ^b
	}
	const written = 64 << 20 / sha256.Size
	// Each of the two processors may keep the pages it touched last for a while, up to
	// 15 of them (PAGEVEC_SIZE): they are not free yet.
	const kept = 2 * 15 * 4096 / sha256.Size
	dir := t.TempDir()
	image, initrd := guestFiles(t)
	c := qemu.Config{Dir: dir, Kernel: image, Initrd: filepath.Join(dir, "initrd"), TPM: filepath.Join(dir, "tpm"), NoReboot: true}
	if err := errors.Join(os.WriteFile(c.Initrd, initrd, 0o600), qemu.CreateTPM(t.Context(), c.TPM, qemu.TPMOptions{})); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, cmdline string
		cleared       bool
	}{
		{"as the board says", "", true},
		{"switched off", " init_on_free=0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.Cmdline = "console=ttyS0,115200 panic=1 no_timer_check guest.do=secret guest.secret=" + word + tt.cmdline
			vm := start(t, c)
			count := func() int {
				t.Helper()
				n, err := vm.CountInMemory(secret[:])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			next := func() {
				t.Helper()
				if _, err := vm.Serial().Write([]byte("\n")); err != nil {
					t.Fatal(err)
				}
			}
			expect(t, vm, `guest: secret in memory`)
			if n := count(); n < written {
				t.Fatalf("the secret is in memory %d times, want %d", n, written)
			}
			next()
			expect(t, vm, `guest: secret given back`)
			switch n := count(); {
			case tt.cleared && n > kept:
				t.Errorf("the secret is still in memory %d times, want at most %d", n, kept)
			case !tt.cleared && n < written/2:
				t.Errorf("the secret is in memory %d times, want most of %d: this test proves nothing", n, written)
			}
			next()
			wait(t, vm, qemu.Exit{Reason: "guest-shutdown"})
		})
	}
}
