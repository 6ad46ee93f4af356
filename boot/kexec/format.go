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
	want, known := map[string]string{"": bzImage + " or Image", "amd64": bzImage, "arm64": arm64Image}[arch]
	switch {
	case !known || found == want || found != "" && arch == "":
		return nil
	case found == "":
		found = "file of no known format"
	}
	return fmt.Errorf("%w: %s, %d bytes; want an %s, or one packed as EFI zboot, gzip or UKI", ErrFormat, found, size, want)
}

const (
	bzImage    = "x86 bzImage"
	arm64Image = "arm64 Image"
)

// format names the kernel in a file of size bytes by its header, or is empty.
// Like [Loader.Load], it looks into one envelope.
func format(r io.ReaderAt, size int64) string {
	if name := header(r, size); name != "" {
		return name
	}
	unpack := packed(r, size)
	if unpack == nil {
		return ""
	}
	var inner start
	if err := unpack(&inner); err != nil && !errors.Is(err, errStart) {
		return ""
	}
	return header(bytes.NewReader(inner.b), int64(len(inner.b)))
}

// header names an unpacked kernel.
func header(r io.ReaderAt, size int64) string {
	if bz, err := uki.ParseBzImage(r, size); err == nil {
		if !bz.Load64 {
			return bzImage + " without a 64-bit entry"
		}
		return bzImage
	}
	const magicAt = 0x38 // Documentation/arch/arm64/booting.rst, arch/riscv/boot-image-header.rst
	magic := make([]byte, 4)
	if n, _ := r.ReadAt(magic, magicAt); n < len(magic) {
		return ""
	}
	switch string(magic) {
	case "ARM\x64":
		return arm64Image
	case "RSC\x05":
		return "RISC-V Image"
	}
	return ""
}

// start keeps the first bytes of what is written to it, enough for a header and
// the kernel's version behind it, and then ends the copying.
type start struct{ b []byte }

var errStart = errors.New("there is enough")

func (s *start) Write(p []byte) (int, error) {
	const enough = 128 << 10
	if s.b = append(s.b, p...); len(s.b) >= enough {
		return 0, errStart
	}
	return len(p), nil
}
