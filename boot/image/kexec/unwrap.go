package kexec

import (
	"compress/gzip"
	"io"
	"os"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/image/uki"
)

// maxKernel bounds an unwrapped kernel, in bytes.
const maxKernel = 256 << 20

// unwrap returns the kernel that is packed in k, or nil if nothing is.
func unwrap(k *os.File) (*os.File, error) {
	size, err := sizeOf(k)
	if err != nil {
		return nil, err
	}
	unpack := packed(k, size)
	if unpack == nil {
		return nil, nil
	}
	return memfd.Store("kernel", func(w *os.File) error { return unpack(w) })
}

// packed returns what writes the kernel that is packed in a file of size bytes,
// or nil if the file is none of the envelopes that are known: EFI zboot, gzip
// (Image.gz of arm64), UKI.
func packed(r io.ReaderAt, size int64) (unpack func(io.Writer) error) {
	if z, err := uki.ParseZboot(r, size); err == nil {
		return func(w io.Writer) error { return z.Unwrap(w, r, maxKernel) }
	}
	if zr, err := gzip.NewReader(io.NewSectionReader(r, 0, size)); err == nil {
		return func(w io.Writer) error { return memfd.CopyLimited(w, zr, maxKernel) }
	}
	if pe, err := uki.Parse(r, size); err == nil && pe.IsUKI() {
		linux, _ := pe.Section(".linux")
		return func(w io.Writer) error { return memfd.CopyLimited(w, linux.Reader(r), maxKernel) }
	}
	return nil
}
