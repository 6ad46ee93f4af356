//go:build vm

package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
)

const (
	payloadSize = 110 << 20 // bytes of kernel and initrd together
	maxPeak     = 400 << 20 // bytes of memory in use, at most, in a machine of 3 GiB
)

// TestPayload boots a kernel with a root in a compressed initrd, of an ordinary
// size together, and prints what that takes, one "name value" a line.
func TestPayload(t *testing.T) {
	l := machine(t)
	t.Cleanup(func() {
		if err := l.push(context.Background(), l.facts.layout); err != nil {
			t.Error(err)
		}
	})
	kernel, initrd := payload(t, l)
	if _, err := l.sealboot(t.Context(), "publish", l.imageRef("127.0.0.1"), "--plain-http", "--kernel", kernel, "--initrd", initrd); err != nil {
		t.Fatal(err)
	}
	trusts(t, l, "payload")
	c := l.Machine()
	c.Memory = 3072
	b := switchOn(t, l, c)
	wantUp(t, b)
	load := b.Load()
	if load == nil {
		t.Fatal("the loader did not say what loading took")
	}
	if load.Peak > maxPeak {
		t.Errorf("peak memory %s, want at most %s", mib(load.Peak), mib(maxPeak))
	}
	fmt.Printf("vm_kexec_load_s %.1f\nvm_peak_mib %d\n", load.Took.Seconds(), load.Peak>>20)
	for _, c := range b.stages() {
		fmt.Printf("vm_stage_%s_s %.1f\n", c.name, c.took)
	}
	fmt.Printf("vm_boot_s %.1f\nvm_fetched_bytes %d\n", b.Events[len(b.Events)-1].Since, b.Fetched())
	loader, err := board.Open(l.loader)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("vm_kernel_bytes %d\nvm_initramfs_bytes %d\nvm_uki_bytes %d\n", loader.Kernel.Size, loader.Initramfs.Size, loader.UKI.Size)
}

// payload makes files of the lab's operating system: its kernel, and its root
// as a zstd archive, with an archive of random bytes behind it to fill the size.
func payload(t *testing.T, l *Lab) (kernel, initrd string) {
	t.Helper()
	image := opened(t, l)
	kernel, initrd = filepath.Join(t.TempDir(), "vmlinuz"), filepath.Join(t.TempDir(), "initrd")
	create(t, kernel, func(w io.Writer) error { _, err := io.Copy(w, image.Kernel); return err })
	create(t, initrd, func(w io.Writer) error {
		z, err := zstd.NewWriter(w)
		if err != nil {
			return err
		}
		_, err = io.Copy(z, image.Initrd)
		return errors.Join(err, z.Close())
	})
	fill := payloadSize - size(t, kernel) - size(t, initrd)
	if fill < 0 {
		t.Fatalf("the operating system is %d bytes too large", -fill)
	}
	f, err := os.OpenFile(initrd, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := (size(t, initrd) + cpio.Align - 1) / cpio.Align * cpio.Align
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(f)
	err = w.WriteHeader(&cpio.Header{Name: "ballast", Mode: cpio.ModeRegular | 0o400, Nlink: 1, Size: uint32(fill)})
	if err == nil {
		_, err = io.CopyN(w, rand.Reader, fill)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return kernel, initrd
}

// opened is the lab's container image as a loader sees it.
func opened(t *testing.T, l *Lab) *osimage.Image {
	t.Helper()
	layouts, err := media.Open(t.Context(), l.facts.layout, "latest")
	if err != nil {
		t.Fatal(err)
	}
	var places []oci.Place
	for _, layout := range layouts {
		t.Cleanup(func() { layout.Close() })
		places = append(places, layout)
	}
	src, err := oci.New(oci.Options{Places: places})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	found, err := src.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image, err := osimage.FromManifest(t.Context(), found.Manifest, found, osimage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { image.Close() })
	return image
}

func create(t *testing.T, path string, fill func(io.Writer) error) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fill(f), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
