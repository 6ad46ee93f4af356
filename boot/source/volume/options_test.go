package volume

import "testing"

// TestOptions pins that no superblock can have the kernel panic.
func TestOptions(t *testing.T) {
	for fstype, want := range map[string]string{"ext4": "errors=remount-ro", "vfat": "", "iso9660": ""} {
		if got := options(fstype); got != want {
			t.Errorf("%s is mounted with %q; want %q", fstype, got, want)
		}
	}
}
