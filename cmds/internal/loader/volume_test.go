package loader

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/source/volume"
)

// TestCacheVolume boots with a volume SB-CACHE in every state that it can be in:
// it is used or the console says why not, and the machine boots.
func TestCacheVolume(t *testing.T) {
	w := newWorld(t)
	blob := "sha256-" + digest.FromString(kernelText).Encoded()
	good := volumetest.Ext4(t, volume.Cache)
	readOnly := volumetest.Ext4(t, volume.Cache)
	readOnly.ReadOnly = true
	edited := func(change func(dir string) error) volumetest.Image {
		return volumetest.Ext4(t, volume.Cache).Edit(t, func(dir string) {
			if err := change(filepath.Join(dir, "blobs")); err != nil {
				t.Fatal(err)
			}
		})
	}
	inDirectory := func(change func(dir string) error) volumetest.Image {
		return edited(func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return change(dir)
		})
	}
	for _, c := range []struct {
		name  string
		disks []volumetest.Image
		kept  bool   // the kernel is on the last disk afterwards
		says  string // on the console
	}{
		{"good", []volumetest.Image{good}, true, ""},
		{"good, the second time", []volumetest.Image{good}, true, ""},
		{"damaged", []volumetest.Image{volumetest.Ext4(t, volume.Cache).Damage(t)}, false, "mounting volume SB-CACHE"},
		{"damaged, and another", []volumetest.Image{volumetest.Ext4(t, volume.Cache).Damage(t), volumetest.Ext4(t, volume.Cache)}, true, ""},
		{"read-only", []volumetest.Image{readOnly}, false, "mounting volume SB-CACHE"},
		{"full", []volumetest.Image{inDirectory(func(dir string) error { return fill(filepath.Join(dir, "photo")) })}, false, "going on without"},
		{"full of old blobs", []volumetest.Image{inDirectory(func(dir string) error {
			return fill(filepath.Join(dir, "sha256-"+strings.Repeat("0", 64)))
		})}, true, ""},
		{"a pipe in place of a blob", []volumetest.Image{inDirectory(func(dir string) error { return unix.Mkfifo(filepath.Join(dir, blob), 0o600) })}, true, "not a regular file"},
		{"a device in place of a blob", []volumetest.Image{inDirectory(func(dir string) error {
			return unix.Mknod(filepath.Join(dir, blob+".part"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))
		})}, true, ""},
		{"a link in place of a blob", []volumetest.Image{inDirectory(func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, blob)) })}, true, "dropping"},
		{"a huge file in place of a blob", []volumetest.Image{inDirectory(func(dir string) error {
			return os.WriteFile(filepath.Join(dir, blob), bytes.Repeat([]byte("x"), 1<<20), 0o600)
		})}, true, "dropping"},
		{"a link that leads out", []volumetest.Image{edited(func(dir string) error { return os.Symlink("/tmp", dir) })}, false, "is no directory"},
		{"a file in place of the directory", []volumetest.Image{edited(func(dir string) error { return os.WriteFile(dir, nil, 0o600) })}, false, "is no directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.volumes = volumetest.Machine(t, c.disks...)
			defer w.reset()
			outcome, err := w.boot()
			out := strings.Join(strings.Fields(w.out.String()), " ")
			if outcome != flow.Kexec {
				t.Fatalf("boot: %v, %v\n%s", outcome, err, out)
			}
			if !strings.Contains(out, c.says) || c.says == "" && strings.Contains(out, "download cache") {
				t.Errorf("the console does not say %q, or too much:\n%s", c.says, out)
			}
			if c.name == "damaged" {
				return
			}
			c.disks[len(c.disks)-1].Edit(t, func(dir string) {
				got, err := os.ReadFile(filepath.Join(dir, "blobs", blob))
				if kept := err == nil && string(got) == kernelText; kept != c.kept {
					t.Errorf("the kernel is on the volume: %v, want %v; %v", kept, c.kept, err)
				}
			})
		})
	}
}

// fill writes a file until the volume is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := io.CopyN(f, zeros{}, 1<<16); err != nil {
			return nil
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestMediaVolume boots from a volume SB-MEDIA, the damaged one next to it notwithstanding.
func TestMediaVolume(t *testing.T) {
	w := newWorld(t)
	layout := w.copyToLayout()
	w.registry.Close()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable"}}
	w.volumes = volumetest.Machine(t,
		volumetest.Ext4(t, volume.Media).Damage(t),
		volumetest.Ext4(t, volume.Media).Edit(t, func(dir string) {
			if err := os.CopyFS(filepath.Join(dir, "images"), os.DirFS(layout)); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "images", "os"), filepath.Join(dir, "os")); err != nil {
				t.Fatal(err)
			}
		}))
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if got := w.pcr12(); got != w.afterCap() {
		t.Errorf("PCR 12 = %s; from the registry %s", got, w.afterCap())
	}
}
