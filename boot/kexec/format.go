package kexec

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/sealboot/sealboot/boot/uki"
)

// ErrFormat says that a file is no kernel of a format that can be loaded.
var ErrFormat = errors.New("no kernel that can be loaded")

// CheckFormat tells early whether the kernel of an architecture (a GOARCH)
// would refuse a file of size bytes for what it is: a kernel for another
// architecture, or none at all. The load itself comes after the measurement,
// where only a reset leads back. An architecture not known here takes every file,
// and an empty one whatever is a kernel for any.
func CheckFormat(r io.ReaderAt, size int64, arch string) error {
	found := format(r, size)
	want, known := map[string]string{"": "x86 bzImage or Image", "amd64": "x86 bzImage", "arm64": "arm64 Image"}[arch]
	switch {
	case !known || found == want || found == packed || found != "" && arch == "":
		return nil
	case found == "":
		found = "file of no known format"
	}
	return fmt.Errorf("%w: %s, %d bytes; want an %s, or one packed as EFI zboot, gzip or UKI", ErrFormat, found, size, want)
}

// packed is what unwrap takes apart.
const packed = "packed kernel"

// format names what a file of size bytes is by its header, or nothing. Of a UKI
// it is its kernel that counts.
func format(r io.ReaderAt, size int64) string {
	if pe, err := uki.Parse(r, size); err == nil && pe.IsUKI() {
		linux, _ := pe.Section(".linux")
		r, size = linux.Reader(r), linux.Size
	}
	if _, err := uki.ParseBzImage(r, size); err == nil {
		return "x86 bzImage"
	}
	if _, err := uki.ParseZboot(r, size); err == nil {
		return packed
	}
	const magicAt = 0x38 // Documentation/arch/arm64/booting.rst, arch/riscv/boot-image-header.rst
	head := make([]byte, magicAt+4)
	if n, _ := r.ReadAt(head, 0); n < len(head) {
		return ""
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return packed
	case string(head[magicAt:]) == "ARM\x64":
		return "arm64 Image"
	case string(head[magicAt:]) == "RSC\x05":
		return "RISC-V Image"
	}
	return ""
}
