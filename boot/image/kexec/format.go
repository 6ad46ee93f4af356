package kexec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/boot/image/uki"
)

// ErrFormat says that a file is no kernel of a format that can be loaded.
var ErrFormat = errors.New("no kernel that can be loaded")

// CheckFormat tells early whether the kernel of an architecture (a GOARCH)
// would refuse a file of size bytes for what it is: a kernel for another
// architecture, or none at all. The load itself comes after the measurement,
// where only a reset leads back. Of an architecture that is not known here nothing
// is taken, since nothing could be said of it; an empty one takes a kernel for any.
func CheckFormat(r io.ReaderAt, size int64, arch string) error {
	formats := map[string]string{"amd64": bzImage, "arm64": arm64Image, "riscv64": riscvImage}
	want, known := formats[arch]
	switch {
	case arch == "":
		want = bzImage + " or Image"
	case !known:
		return fmt.Errorf("%w: no format is known for the architecture %.40q, only for %s", ErrFormat, arch,
			strings.Join(slices.Sorted(maps.Keys(formats)), ", "))
	}
	found := format(r, size)
	switch {
	case found == want || found != "" && arch == "":
		return nil
	case found == "":
		found = "file of no known format"
	}
	return fmt.Errorf("%w: %s, %d bytes; want an %s, or one packed as EFI zboot, gzip or UKI", ErrFormat, found, size, want)
}

const (
	bzImage    = "x86 bzImage"
	arm64Image = "arm64 Image"
	riscvImage = "RISC-V Image"
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
		return riscvImage
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
