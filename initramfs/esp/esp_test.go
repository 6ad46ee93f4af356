package esp

import (
	"bytes"
	"errors"
	"fmt"
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
	files := func(n int) map[string][]byte {
		all := map[string][]byte{}
		for i := range n {
			all[fmt.Sprintf("F%d", i)] = nil
		}
		return all
	}
	const name = "is not a name of 8+3"
	for want, c := range map[string][]map[string][]byte{
		name: {
			{"a.txt": nil}, {"ABCDEFGHI": nil}, {"A.BCDE": nil}, {"A.B.C": nil}, {"A.": nil}, {".A": nil},
			{"": nil}, {"/A": nil}, {"A//B": nil}, {"A/": nil}, {"./A": nil}, {"../A": nil}, {"A/../B": nil},
		},
		"need more than the": {{"A": make([]byte, 64<<20)}},
		"more than 512 of":   {files(512)}, // with the label
		"":                   {files(511), {"ABCDEFGH.TXT": nil}},
	} {
		for _, f := range c {
			_, err := Image(f)
			if want == "" && err != nil || want != "" && (!errors.Is(err, ErrFiles) || !strings.Contains(err.Error(), want)) {
				t.Errorf("%d files: %v, want %v with %q", len(f), err, ErrFiles, want)
			}
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
