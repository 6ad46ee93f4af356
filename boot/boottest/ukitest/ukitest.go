// Package ukitest makes the smallest files that pass for kernels and UKIs, for
// tests of what looks at their headers and never starts them.
package ukitest

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/image/uki"
)

// BzImage is an x86 kernel as far as its boot header says (boot.rst), with text
// behind it that tells it from others. It takes 1 KiB besides.
func BzImage(text string) string {
	b := []byte(strings.Repeat("\x00", 1024))
	le := binary.LittleEndian
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f) // protocol 2.15
	b[0x211] = 1                   // loadflags: LOADED_HIGH
	b[0x236] = 3                   // xloadflags: XLF_KERNEL_64, XLF_CAN_BE_LOADED_ABOVE_4G
	le.PutUint32(b[0x238:], 2047)  // longest command line
	return string(b) + text
}

// UKI puts sections on the smallest stub that uki.Build takes.
func UKI(t testing.TB, sections ...uki.Content) []byte {
	t.Helper()
	stub := make([]byte, 1024)
	copy(stub, "MZ")
	le := binary.LittleEndian
	le.PutUint32(stub[60:], 64)
	copy(stub[64:], "PE\x00\x00\x64\x86\x01\x00")
	le.PutUint16(stub[84:], 240)
	le.PutUint16(stub[88:], 0x20b)
	le.PutUint32(stub[88+32:], 4096)
	le.PutUint32(stub[88+36:], 512)
	copy(stub[328:], ".text")
	le.PutUint32(stub[336:], 512)
	le.PutUint32(stub[340:], 4096)
	le.PutUint32(stub[344:], 512)
	le.PutUint32(stub[348:], 512)
	var out bytes.Buffer
	if err := uki.Build(&out, stub, sections); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
