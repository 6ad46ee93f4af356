package kexec

import (
	"compress/gzip"
	"io"
	"os"

	"github.com/sealboot/sealboot/boot/memfd"
	"github.com/sealboot/sealboot/boot/uki"
)

// maxKernel bounds an unwrapped kernel, in bytes.
const maxKernel = 256 << 20

// unwrap returns the kernel that is packed in k, or nil if k is none of the
// envelopes that are known: EFI zboot, gzip (Image.gz of arm64), UKI.
func unwrap(k *os.File) (*os.File, error) {
	size, err := k.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if z, err := uki.ParseZboot(k, size); err == nil {
		return memfd.Store("kernel", func(w *os.File) error { return z.Unwrap(w, k, maxKernel) })
	}
	if zr, err := gzip.NewReader(io.NewSectionReader(k, 0, size)); err == nil {
		return memfd.Store("kernel", func(w *os.File) error { return memfd.CopyLimited(w, zr, maxKernel) })
	}
	pe, err := uki.Parse(k, size)
	if err != nil || !pe.IsUKI() {
		return nil, nil
	}
	linux, _ := pe.Section(".linux")
	return memfd.Store("kernel", func(w *os.File) error { return memfd.CopyLimited(w, linux.Reader(k), maxKernel) })
}
