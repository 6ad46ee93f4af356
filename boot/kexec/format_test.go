package kexec

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/uki"
	"github.com/sealboot/sealboot/boot/uki/ukitest"
)

func TestCheckFormat(t *testing.T) {
	bzImage, text := ukitest.BzImage("rest"), strings.Repeat("<html>", 100)
	arm64 := strings.Repeat("\x00", 0x38) + "ARM\x64" + "rest"
	zeros := strings.Repeat("\x00", 0x40)
	zboot := "MZ\x00\x00zimg\x40\x00\x00\x00\x08\x00\x00\x00" + zeros[:8] + "gzip" + zeros[:36] + "payload."
	for name, tc := range map[string]struct {
		kernel, arch string
		want         string // nothing: accepted
	}{
		"bzImage":              {bzImage, "amd64", ""},
		"bzImage for arm64":    {bzImage, "arm64", "x86 bzImage, 620 bytes; want an arm64 Image"},
		"Image":                {arm64, "arm64", ""},
		"Image for amd64":      {arm64, "amd64", "arm64 Image, 64 bytes; want an x86 bzImage"},
		"Image, cut":           {arm64[:0x3b], "arm64", "no known format, 59 bytes"},
		"gzip":                 {"\x1f\x8b" + zeros, "arm64", ""},
		"UKI":                  {string(ukitest.UKI(t, uki.Content{Name: ".linux", Data: []byte(bzImage)}, uki.Content{Name: ".initrd", Data: []byte("x")})), "amd64", ""},
		"PE without a kernel":  {string(ukitest.UKI(t, uki.Content{Name: ".initrd", Data: []byte("x")})), "amd64", "no known format"},
		"zboot":                {zboot, "arm64", ""},
		"any kernel":           {arm64, "", ""},
		"a kernel of RISC-V":   {zeros[:0x38] + "RSC\x05", "", ""},
		"no kernel":            {text, "", "want an x86 bzImage or Image"},
		"text":                 {text, "amd64", "no known format, 600 bytes"},
		"nothing":              {"", "amd64", "no known format, 0 bytes"},
		"text, who knows what": {text, "riscv64", ""},
	} {
		err := CheckFormat(strings.NewReader(tc.kernel), int64(len(tc.kernel)), tc.arch)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
