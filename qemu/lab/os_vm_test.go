//go:build vm

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealboot/sealboot/qemu"
)

// TestSite follows one machine: its first boot, seen from the inside; another
// after attestd was killed; and its disk in another machine.
func TestSite(t *testing.T) {
	l := machine(t)
	bootsImage(t, l, "probe", probed(t, l))
	first, disk := l.unit, l.dataDisk()
	if !t.Run("first boot", func(t *testing.T) {
		const stop = "\x13" // Ctrl-S, or noise on the line
		b := switchOnWith(t, l, offering(t, l.Machine()), func(vm *qemu.VM) error {
			_, err := vm.Expect(t.Context(), "prepare ", 20*time.Second)
			return errors.Join(err, vm.Type(stop))
		})
		wantUp(t, b)
		if !strings.Contains(b.Console, "starting the operating system") {
			t.Error("somebody at the console could stop it")
		}
		wantReleases(t, l, 1)
		for _, check := range []string{"logs", "secrets", "release", "container", "credentials"} {
			wantProbed(t, b, check)
		}
		if !strings.Contains(b.Console, "probe: credentials: 2 offered, none taken") {
			t.Error("the operating system was not offered two credentials")
		}
	}) {
		return
	}
	t.Run("attestd killed between boots, and a busy TPM", func(t *testing.T) {
		_, before := verdicts(t, l)
		l.server.Kill()
		if err := l.startAttestd(t.Context()); err != nil {
			t.Fatal(err)
		}
		c, busy := l.Machine(), &busyTPM{}
		c.TPMFilter = fromTheLoader(busy.filter)
		b := switchOn(t, l, c)
		wantUp(t, b)
		if n := busy.refused.Load(); n != mostRefused {
			t.Errorf("the TPM refused %d commands, want %d", n, mostRefused)
		}
		if !strings.Contains(b.Console, "boots so far: 2") {
			t.Error("the volume does not show the first boot")
		}
		allowed, after := verdicts(t, l)
		if allowed != 2 || len(after) <= len(before) {
			t.Errorf("%d releases, %d verdicts after %d before the crash", allowed, len(after), len(before))
		}
	})
	t.Run("the disk in another machine", func(t *testing.T) {
		l := machine(t)
		if l.unit == first {
			t.Fatal("it is the same machine")
		}
		was, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.dataDisk(), was, 0o600); err != nil {
			t.Fatal(err)
		}
		b := switchOn(t, l, l.Machine())
		wantReleases(t, l, 1) // it is a machine of the site, and gets the site's key
		if b.OK() || !strings.Contains(b.Console, "the volume is not open") {
			t.Errorf("the stolen disk was opened: %q", b.Demo())
		}
		is, err := os.ReadFile(l.dataDisk())
		if err != nil {
			t.Fatal(err)
		}
		if string(is) != string(was) {
			t.Error("the stolen disk was written to")
		}
	})
}

func wantProbed(t *testing.T, b *Boot, check string) {
	t.Helper()
	for _, line := range b.Demo() {
		if found, ok := strings.CutPrefix(line, "probe: "+check+": "); ok {
			t.Logf("%s: %s", check, found)
			if strings.HasPrefix(found, "FAILED") {
				t.Errorf("%s: %s", check, found)
			}
			return
		}
	}
	t.Errorf("the probe said nothing about %s", check)
}

// bootsImage makes machines boot image for this test, with its reference values
// in attestd.
func bootsImage(t *testing.T, l *Lab, name string, image v1.Image) {
	t.Helper()
	ctx := t.Context()
	t.Cleanup(func() {
		if err := l.push(context.Background(), l.facts.layout); err != nil {
			t.Error(err)
		}
	})
	if err := l.pushImage(ctx, l.unitPath("image"), image); err != nil {
		t.Fatal(err)
	}
	trusts(t, l, name)
}

// trusts makes what the registry holds now a good image of the site.
func trusts(t *testing.T, l *Lab, name string) {
	t.Helper()
	ctx := t.Context()
	reference := l.unitPath("image.json")
	_, predicted := l.sealboot(ctx, "predict", "image", "--site", l.siteJSON, "--name", name, "--image-version", "1",
		"--plain-http", "-o", reference, l.imageRef("127.0.0.1"))
	if predicted != nil {
		t.Fatal(predicted)
	}
	if _, err := l.sealboot(ctx, "policy", "add", "--dir", l.site, reference); err != nil {
		t.Fatal(err)
	}
}

// probed is the operating system with the probe in it.
func probed(t *testing.T, l *Lab) v1.Image {
	t.Helper()
	files := []file{
		{"usr/lib/sealboot/probe", 0o755, program(t, l, "probe")},
		{"usr/lib/sealboot/container", 0o755, content(t, "probe/container.sh")},
		{"usr/lib/sealboot/demo", 0o755, content(t, "probe/demo.sh")},
		{"usr/lib/sealboot/demo-itself", 0o755, content(t, "../osbuild/files/overlay/usr/lib/sealboot/demo")},
		{"etc/sealboot/site.json", 0o644, content(t, l.siteJSON)},
	}
	image, err := l.image()
	if err == nil {
		image, err = appendFiles(image, files...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// program builds one of the programs next to this file for the operating system.
func program(t *testing.T, l *Lab, name string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	_, err := l.run(t.Context(), l.o.Source, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./qemu/lab/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return content(t, path)
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKernelThatCannotBeLoaded boots an image that attestd knows and whose
// kernel kexec_file_load refuses: after a release, there is only the reset, with
// no seal key left in the machine's memory.
func TestKernelThatCannotBeLoaded(t *testing.T) {
	l := machine(t)
	image, err := l.image()
	if err != nil {
		t.Fatal(err)
	}
	name, kernel, err := findKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	// kernel_alignment of the x86 boot protocol: a header in order, and only kexec
	// finds out that this machine has no such place.
	const kernelAlignment = 0x230
	binary.LittleEndian.PutUint32(kernel[kernelAlignment:], math.MaxUint32)
	if image, err = appendFiles(image, file{name, 0o644, kernel}); err != nil {
		t.Fatal(err)
	}
	bootsImage(t, l, "unloadable", image)
	c := loaderCode(t, l)
	b := switchOnWith(t, l, l.Machine(), func(vm *qemu.VM) error {
		return c.debug(t.Context(), vm, func(_ *qemu.Debugger, runTo func(string) error) error {
			if err := runTo("boot/image/kexec.(*Loader).Load"); err != nil {
				return err
			}
			wantKey(t, l, vm, true)
			return wiped(t, l, vm, runTo)
		})
	})
	wantRefusal(t, b, "load", "cannot assign requested address")
	wantEnd(t, b, reset)
	wantReleases(t, l, 1)
	wantNoShell(t, b)
	wantBlank(t, l)
}

// wantNoShell checks that the console shows no sign of one.
func wantNoShell(t *testing.T, b *Boot) {
	t.Helper()
	for _, sign := range []string{"a shell; the machine", "\n$ ", "\n# ", "gosh"} {
		if strings.Contains(b.Console, sign) {
			t.Errorf("the console shows %q", sign)
		}
	}
}

// TestUnknownMachine boots a machine that no one has enrolled.
func TestUnknownMachine(t *testing.T) {
	l := shared
	l.unit, l.facts.device = "unknown", ""
	if err := l.makeTPM(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := switchOn(t, l, l.Machine())
	// Its TPM holds no rollback floor either, which ends the boot before it is attested.
	wantRefusal(t, b, "floor", "no rollback floor")
	wantEnd(t, b, poweroff)
	wantReleases(t, l, 0)
	wantBlank(t, l)
}

// TestForeignMachine boots a machine that is enrolled at another site.
func TestForeignMachine(t *testing.T) {
	l, ctx := shared, t.Context()
	l.unit = t.Name()
	if err := l.makeTPM(ctx); err != nil {
		t.Fatal(err)
	}
	here := l.site
	l.site = l.unitPath("site")
	t.Cleanup(func() { l.site = here })
	if _, err := l.sealboot(ctx, "site", "init", "--dir", l.site, "--name", "elsewhere", "--ek-roots", l.path("tpm-makers.pem"),
		"--url", "https://elsewhere.example:8443"); err != nil {
		t.Fatal(err)
	}
	if err := l.enrol(ctx); err != nil {
		t.Fatal(err)
	}
	l.site = here
	b := switchOn(t, l, l.Machine())
	wantRefusal(t, b, "attest", "device-unknown")
	wantEnd(t, b, reset)
	wantReleases(t, l, 0)
	wantBlank(t, l)
}

// TestNoTPM boots a machine without one.
func TestNoTPM(t *testing.T) {
	l := machine(t)
	c := l.Machine()
	c.TPM = ""
	b := switchOn(t, l, c)
	wantRefusal(t, b, "prepare", "TPM")
	wantEnd(t, b, poweroff)
	wantReleases(t, l, 0)
	wantBlank(t, l)
}
