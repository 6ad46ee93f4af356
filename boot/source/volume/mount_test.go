package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/source/volume"
)

// TestMount finds the volume that can be mounted among several disks, on real
// block devices.
func TestMount(t *testing.T) {
	good := volumetest.Ext4(t, volume.Cache).Edit(t, func(dir string) {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "hello"), nil, 0o600),
			unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
			t.Fatal(err)
		}
	})
	blank := volumetest.Image{Path: filepath.Join(t.TempDir(), "blank")}
	if err := os.WriteFile(blank.Path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	sys := volumetest.Machine(t, blank, volumetest.Ext4(t, volume.Media), volumetest.Ext4(t, volume.Cache).Damage(t), good)
	dir, unmount, err := sys.OpenWritable(t.Context(), volume.Cache)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if f, err := os.Open(filepath.Join(dir, "null")); err == nil {
		t.Errorf("%s can be opened", f.Name())
		_ = f.Close()
	}
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	if dir, unmount, err = sys.Open(t.Context(), volume.Cache); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "written")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "again"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a volume that is mounted to be read: %v", err)
	}
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
}

func TestMountFails(t *testing.T) {
	readOnly := volumetest.Ext4(t, volume.Cache)
	readOnly.ReadOnly = true
	sys := volumetest.Machine(t, volumetest.Ext4(t, volume.Media).Damage(t), readOnly)
	for label, want := range map[string]string{volume.Media: "vda, ext4): structure needs cleaning", volume.Cache: "vdb, ext4): "} {
		_, _, err := sys.OpenWritable(t.Context(), label)
		if err == nil || !strings.Contains(err.Error(), "mounting volume "+label) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", label, err, want)
		}
	}
}
