//go:build vm

package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/gosym"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/qemu"
)

// TestCrash kills the loader that the site accepts, as it is: with a processor
// that jumps to nowhere in the middle of the measurement, and as the kernel's
// memory killer would, once the handover is in the kernel that was loaded. The
// supervisor must say so and reset, and leave no seal key in the machine's memory.
// Where the kernel stands still too, the watchdog must reset the machine.
func TestCrash(t *testing.T) {
	t.Run("before a release", func(t *testing.T) {
		l, ctx := machine(t), t.Context()
		c := loaderCode(t, l)
		b := switchOnWith(t, l, l.Machine(), func(vm *qemu.VM) error {
			return c.debug(ctx, vm, func(d *qemu.Debugger, runTo func(string) error) error {
				if err := runTo("measure.(*Recorder).Extend"); err != nil {
					return err
				}
				return d.Set(ctx, map[qemu.Register]uint64{qemu.RIP: 0})
			})
		})
		wantCrash(t, b, "exit status 2")
		if !strings.Contains(b.Console, "SIGSEGV") {
			t.Error("the console does not show why")
		}
		wantReleases(t, l, 0)
		wantBlank(t, l)
	})
	t.Run("after the release", func(t *testing.T) {
		l, ctx := machine(t), t.Context()
		c := loaderCode(t, l)
		b := switchOnWith(t, l, l.Machine(), func(vm *qemu.VM) error {
			return c.debug(ctx, vm, func(d *qemu.Debugger, runTo func(string) error) error {
				if err := runTo("boot/flow.(*Boot).leave"); err != nil {
					return err
				}
				wantKey(t, l, vm, true)
				kill := map[qemu.Register]uint64{qemu.RIP: c.syscall, qemu.RAX: unix.SYS_KILL, qemu.RDI: 0, qemu.RSI: uint64(unix.SIGKILL)}
				if err := d.Set(ctx, kill); err != nil {
					return err
				}
				return wiped(t, l, vm, runTo)
			})
		})
		wantCrash(t, b, "signal: killed")
		wantReleases(t, l, 1)
		wantBlank(t, l)
	})
	t.Run("and the kernel with it", func(t *testing.T) {
		l, ctx := machine(t), t.Context()
		c := loaderCode(t, l)
		b := switchOnWith(t, l, l.Machine(), func(vm *qemu.VM) error {
			return c.debug(ctx, vm, func(d *qemu.Debugger, _ func(string) error) error { return d.Freeze(ctx) })
		})
		wantEnd(t, b, reset)
		if !b.Exit.Watchdog || b.Exit.Panic != "" {
			t.Errorf("the machine's end: %+v; want that of its watchdog, and no panic", b.Exit)
		}
		t.Logf("the machine was on for %.1f s", b.Took.Seconds())
		wantReleases(t, l, 0)
		wantBlank(t, l)
	})
}

// TestOSThatStandsStill stops every processor in an operating system that has just
// begun, of a site that leaves the watchdog on for it.
func TestOSThatStandsStill(t *testing.T) {
	l, ctx := machine(t), t.Context()
	loader, siteJSON := l.loader, l.siteJSON
	t.Cleanup(func() { l.loader, l.siteJSON, l.watchdog = loader, siteJSON, 0 })
	l.loader, l.siteJSON, l.watchdog = l.unitPath("loader"), l.unitPath("site.json"), 120
	if err := errors.Join(l.buildLoader(ctx), l.trustLoader(ctx)); err != nil {
		t.Fatal(err)
	}
	b := switchOnWith(t, l, l.Machine(), func(vm *qemu.VM) error {
		if _, err := vm.Expect(ctx, "starting the operating system", 20*time.Second); err != nil {
			return err
		}
		if _, err := vm.Expect(ctx, `: volume data on `, 20*time.Second); err != nil {
			return err
		}
		d, err := vm.Debug(ctx)
		if err != nil {
			return err
		}
		return errors.Join(d.Freeze(ctx), d.Close())
	})
	wantEnd(t, b, reset)
	if !b.Exit.Watchdog || b.OK() {
		t.Errorf("the machine's end: %+v, demo %q; want that of its watchdog", b.Exit, b.Demo())
	}
	if strings.Contains(b.Console, "the kernel may stop its watchdog") {
		t.Error("netboot does not trust the board's kernel to keep the watchdog")
	}
}

// wiped lets the machine run until its supervisor is about to do what the end of
// the worker calls for, and looks for the seal key.
func wiped(t *testing.T, l *Lab, vm *qemu.VM, runTo func(string) error) error {
	t.Helper()
	if err := runTo("cmds/netboot.(*supervisor).finish"); err != nil {
		return err
	}
	wantKey(t, l, vm, false)
	return nil
}

// wantKey checks whether the site's seal key stands in a machine's memory, as it
// is or as a message carries it.
func wantKey(t *testing.T, l *Lab, vm *qemu.VM, want bool) {
	t.Helper()
	s, err := site.Load(l.site, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimRight(base64.StdEncoding.EncodeToString(s.SealKey), "=")
	found := 0
	for _, shape := range [][]byte{s.SealKey, []byte(text)} {
		n, err := vm.CountInMemory(shape)
		if err != nil {
			t.Fatal(err)
		}
		found += n
	}
	t.Logf("the seal key is %d times in the machine's memory", found)
	if found > 0 != want {
		t.Errorf("the seal key is in the machine's memory: %v, want %v", found > 0, want)
	}
}

// wantCrash checks what became of a machine whose loader died.
func wantCrash(t *testing.T, b *Boot, how string) {
	t.Helper()
	if want := "the worker died: " + how + "; reset"; !strings.Contains(b.Console, want) {
		t.Errorf("the console does not say %q", want)
	}
	wantEnd(t, b, reset)
	wantNoShell(t, b)
	if len(b.Demo()) > 0 {
		t.Error("an operating system ran")
	}
}

// code is the program of a loader.
type code struct {
	functions []gosym.Func
	syscall   uint64 // address of an instruction that calls the kernel
}

// debug lets do look into the machine from when its loader has found the image,
// and stop it where one of the loader's functions is called.
func (c *code) debug(ctx context.Context, vm *qemu.VM, do func(d *qemu.Debugger, runTo func(function string) error) error) error {
	if _, err := vm.Expect(ctx, "found ", 20*time.Second); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, vm.Accel().Deadline(10*time.Second))
	defer cancel()
	d, err := vm.Debug(ctx)
	if err != nil {
		return err
	}
	err = do(d, func(function string) error {
		at, err := c.find(function)
		if err != nil {
			return err
		}
		return d.RunTo(ctx, at.Entry)
	})
	return errors.Join(err, d.Close())
}

func (c *code) find(suffix string) (*gosym.Func, error) {
	for i := range c.functions {
		if f := &c.functions[i]; strings.HasSuffix(f.Name, suffix) {
			return f, nil
		}
	}
	return nil, fmt.Errorf("the loader has no function %s", suffix)
}

// loaderCode reads the program out of the loader's UKI.
func loaderCode(t *testing.T, l *Lab) *code {
	t.Helper()
	c, err := readCode(t.Context(), filepath.Join(l.loader, board.UKIFile))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readCode(ctx context.Context, path string) (*code, error) {
	busybox, err := fromUKI(ctx, path, "bbin/bb")
	if err != nil {
		return nil, err
	}
	program, err := elf.NewFile(bytes.NewReader(busybox))
	if err != nil {
		return nil, err
	}
	if program.Type != elf.ET_EXEC {
		return nil, fmt.Errorf("the loader's program is of type %v, whose addresses are not known", program.Type)
	}
	text := program.Section(".text")
	lines, err := program.Section(".gopclntab").Data()
	if err != nil {
		return nil, err
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(lines, text.Addr))
	if err != nil {
		return nil, err
	}
	c := &code{functions: table.Funcs}
	call, err := c.find("runtime/syscall/linux.Syscall6")
	if err != nil {
		return nil, err
	}
	body := make([]byte, call.End-call.Entry)
	if _, err := text.ReadAt(body, int64(call.Entry-text.Addr)); err != nil {
		return nil, err
	}
	i := bytes.Index(body, []byte{0x0f, 0x05}) // syscall
	if i < 0 {
		return nil, errors.New("no system call in " + call.Name)
	}
	c.syscall = call.Entry + uint64(i)
	return c, nil
}

// fromUKI is one file of the initramfs in a UKI.
func fromUKI(ctx context.Context, path, name string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	image, err := uki.Parse(f, info.Size())
	if err != nil {
		return nil, err
	}
	section, ok := image.Section(".initrd")
	if !ok {
		return nil, errors.New("no initramfs in " + path)
	}
	xz := exec.CommandContext(ctx, "xz", "--decompress", "--stdout")
	xz.Stdin = section.Reader(f)
	archive, err := xz.Output()
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r.Name == name {
			content := make([]byte, r.FileSize)
			_, err := r.ReadAt(content, 0)
			return content, err
		}
	}
	return nil, errors.New("no " + name + " in " + path)
}
