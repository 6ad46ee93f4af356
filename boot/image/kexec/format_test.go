package kexec

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/base/platform"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/image/uki"
)

func TestCheckFormat(t *testing.T) {
	bzImage, text := ukitest.BzImage("rest"), strings.Repeat("<html>", 100)
	arm64 := strings.Repeat("\x00", 0x38) + "ARM\x64" + "rest"
	zeros := strings.Repeat("\x00", 0x40)
	gz := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := io.WriteString(w, s)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	zboot := func(payload string) string {
		size := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)))
		return "MZ\x00\x00zimg\x40\x00\x00\x00" + string(size) + zeros[:8] + "gzip" + zeros[:36] + payload
	}
	i386 := bzImage[:0x236] + "\x00" + bzImage[0x237:]
	for name, tc := range map[string]struct {
		kernel, arch string
		want         string // nothing: accepted
	}{
		"bzImage":              {bzImage, "amd64", ""},
		"bzImage for arm64":    {bzImage, "arm64", "x86 bzImage, 1028 bytes; want an arm64 Image"},
		"Image":                {arm64, "arm64", ""},
		"Image for amd64":      {arm64, "amd64", "arm64 Image, 64 bytes; want an x86 bzImage"},
		"Image, cut":           {arm64[:0x3b], "arm64", "no known format, 59 bytes"},
		"gzip":                 {gz(arm64), "arm64", ""},
		"gzip, large":          {gz(bzImage + strings.Repeat("more", 1<<20)), "amd64", ""},
		"gzip for amd64":       {gz(arm64), "amd64", "arm64 Image"},
		"gzip of an archive":   {gz(text), "arm64", "no known format"},
		"gzip, cut":            {gz(arm64)[:20], "arm64", "no known format"},
		"two bytes of gzip":    {"\x1f\x8b" + zeros, "", "no known format"},
		"of 32 bits":           {i386, "amd64", "without a 64-bit entry"},
		"UKI":                  {string(ukitest.UKI(t, uki.Content{Name: ".linux", Data: []byte(bzImage)}, uki.Content{Name: ".initrd", Data: []byte("x")})), "amd64", ""},
		"PE without a kernel":  {string(ukitest.UKI(t, uki.Content{Name: ".initrd", Data: []byte("x")})), "amd64", "no known format"},
		"zboot":                {zboot(gz(arm64)), "arm64", ""},
		"zboot for amd64":      {zboot(gz(arm64)), "amd64", "arm64 Image"},
		"zboot of nothing":     {zboot("payload."), "arm64", "no known format"},
		"any kernel":           {arm64, "", ""},
		"a kernel of RISC-V":   {zeros[:0x38] + "RSC\x05", "", ""},
		"no kernel":            {text, "", "want an x86 bzImage or Image"},
		"text":                 {text, "amd64", "no known format, 600 bytes"},
		"nothing":              {"", "amd64", "no known format, 0 bytes"},
		"text, who knows what": {text, "riscv64", "want an RISC-V Image"},
		"for RISC-V":           {zeros[:0x38] + "RSC\x05", "riscv64", ""},
		"another architecture": {bzImage, "s390x", "no format is known for the architecture \"s390x\", only for amd64, arm64, riscv64"},
		"mistyped":             {bzImage, "x86_64", "no format is known"},
	} {
		err := CheckFormat(strings.NewReader(tc.kernel), int64(len(tc.kernel)), tc.arch)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// TestEveryPlatformIsChecked: what can be named as a platform has a format.
func TestEveryPlatformIsChecked(t *testing.T) {
	for _, arch := range append(platform.Architectures(), runtime.GOARCH) {
		err := CheckFormat(strings.NewReader("text"), 4, arch)
		if !errors.Is(err, ErrFormat) || strings.Contains(err.Error(), "no format is known") {
			t.Errorf("%s: %v", arch, err)
		}
	}
}
