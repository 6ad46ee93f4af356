package volume_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealboot/sealboot/boot/source/volume"
)

// TestFind has the volumes made by the tools that people use.
func TestFind(t *testing.T) {
	tests := []struct {
		label, fstype string
		make          []string
	}{
		{"SB-MEDIA", "vfat", []string{"mkfs.vfat", "-n", "SB-MEDIA"}},
		{"SB-MEDIA", "vfat", []string{"mkfs.vfat", "-F", "32", "-n", "SB-MEDIA"}},
		{"SB-CACHE", "ext4", []string{"mkfs.ext4", "-q", "-F", "-L", "SB-CACHE"}},
	}
	for _, tt := range tests {
		t.Run(tt.fstype, func(t *testing.T) {
			path, err := exec.LookPath(tt.make[0])
			if err != nil {
				if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			dir := t.TempDir()
			sys := volume.System{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")}
			for _, d := range []string{sys.Sys, sys.Dev, filepath.Join(sys.Sys, "sda"), filepath.Join(sys.Sys, "sdb")} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for name, size := range map[string]int64{"sda": 1 << 20, "sdb": 40 << 20} {
				if err := os.WriteFile(filepath.Join(sys.Dev, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(filepath.Join(sys.Dev, name), size); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(path, append(tt.make[1:], filepath.Join(sys.Dev, "sdb"))...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			dev, fstype, err := sys.Find(t.Context(), tt.label)
			if err != nil || filepath.Base(dev) != "sdb" || fstype != tt.fstype {
				t.Errorf("Find(%q) = %q, %q, %v", tt.label, dev, fstype, err)
			}
			if _, _, err := sys.Find(t.Context(), "OTHER"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Find(OTHER): %v", err)
			}
		})
	}
}

func TestLabelISO(t *testing.T) {
	img := make([]byte, 40<<10)
	copy(img[32768:], "\x01CD001\x01")
	copy(img[32768+40:], "SB-MEDIA                        ")
	if label, fstype := volume.Label(bytes.NewReader(img)); label != "SB-MEDIA" || fstype != "iso9660" {
		t.Errorf("Label = %q, %q", label, fstype)
	}
	if label, fstype := volume.Label(bytes.NewReader(img[:32768])); label != "" || fstype != "" {
		t.Errorf("Label of a short image = %q, %q", label, fstype)
	}
}
