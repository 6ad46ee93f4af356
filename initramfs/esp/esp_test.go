package esp

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func content(n int) []byte { return bytes.Repeat([]byte("sealboot"), n/8+1)[:n] }

func TestImageIsReproducible(t *testing.T) {
	files := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": content(5 << 20), "B.TXT": content(10), "A": nil}
	a, err := Image(files)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Image(files)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two images of the same files differ")
	}
	files["B.TXT"] = content(11)
	c, err := Image(files)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a[:partStart*sector], c[:partStart*sector]) {
		t.Error("the partition table, which firmware measures, depends on the files")
	}
}

func TestImageRefuses(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"lower case":   {"a.txt": nil},
		"long name":    {"ABCDEFGHI": nil},
		"two dots":     {"A.B.C": nil},
		"absolute":     {"/A": nil},
		"not clean":    {"A//B": nil},
		"parent":       {"../A": nil},
		"too big":      {"A": make([]byte, 64<<20)},
		"empty":        {"": nil},
		"trailing dot": {"A.": nil},
	} {
		if _, err := Image(files); !errors.Is(err, ErrFiles) {
			t.Errorf("%s: error %v, want ErrFiles", name, err)
		}
	}
}

// TestForeignTools has the image checked by programs that know the formats.
func TestForeignTools(t *testing.T) {
	for _, tool := range []string{"fsck.vfat", "mcopy", "sfdisk"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	files := map[string][]byte{"EFI/BOOT/BOOTX64.EFI": content(3_000_001), "EFI/BOOT/OLD.EFI": content(2048), "EFI/X/Y/Z.BIN": content(1), "TOP.TXT": content(100)}
	image := filepath.Join(t.TempDir(), "esp.img")
	if err := Create(image, files); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sfdisk", "--verify", image).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk: %v: %s", err, out)
	}

	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "part.img")
	if err := os.WriteFile(part, whole[partStart*sector:(partStart+partSize)*sector], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsck.vfat", "-n", part).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v: %s", err, out)
	}
	for name, want := range files {
		got, err := exec.Command("mcopy", "-n", "-i", part, "::"+name, "-").Output()
		if err != nil {
			t.Errorf("mcopy %s: %v", name, err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s: read back %d bytes that differ from the %d written", name, len(got), len(want))
		}
	}
}
