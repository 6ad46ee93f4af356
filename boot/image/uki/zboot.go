package uki

import (
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"

	"github.com/sealboot/sealboot/boot/image/xzstream"
	"github.com/sealboot/sealboot/measure/plaintext"
)

// zbootMagic stands after the MZ of an EFI zboot image.
const zbootMagic = "zimg"

// maxZstdWindow bounds the memory that a zstd frame can ask for, in bytes.
const maxZstdWindow = 128 << 20

// Zboot is the header of an EFI zboot image (drivers/firmware/efi/libstub/
// zboot-header.S): a compressed kernel in a PE file that unpacks itself under
// EFI and that kexec cannot load.
type Zboot struct {
	Offset, Size int64  // of the compressed kernel in the file, bytes
	Compression  string // "gzip", "zstd22", "xzkern" or "lzma"
}

// ParseZboot reads the zboot header of a file of size bytes.
func ParseZboot(r io.ReaderAt, size int64) (*Zboot, error) {
	h := make([]byte, 64)
	if err := readAt(r, h, 0, size); err != nil {
		return nil, err
	}
	if string(h[:2]) != dosSignature || string(h[4:8]) != zbootMagic {
		return nil, fmt.Errorf("%w: no EFI zboot header", ErrFormat)
	}
	z := &Zboot{
		Offset:      int64(binary.LittleEndian.Uint32(h[8:])),
		Size:        int64(binary.LittleEndian.Uint32(h[12:])),
		Compression: plaintext.Prefix(h[24:56]),
	}
	if z.Offset < int64(len(h)) || z.Offset > size || z.Size > size-z.Offset {
		return nil, fmt.Errorf("%w: zboot payload of %d bytes at %d is beyond its %d bytes", ErrFormat, z.Size, z.Offset, size)
	}
	return z, nil
}

// Unwrap writes the decompressed kernel to w, at most limit bytes. The payload is
// hostile: what a decompressor allocates is bounded before it does.
func (z *Zboot) Unwrap(w io.Writer, r io.ReaderAt, limit int64) error {
	if err := z.decompress(&limited{w: w, left: limit}, io.NewSectionReader(r, z.Offset, z.Size)); err != nil {
		return fmt.Errorf("unwrap %s zboot kernel: %w", z.Compression, err)
	}
	return nil
}

func (z *Zboot) decompress(w io.Writer, r io.Reader) error {
	switch z.Compression {
	case "gzip":
		in, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		in.Multistream(false) // the build appends the size, padding may follow
		_, err = io.Copy(w, in)
		return err
	case "zstd22", "zstd":
		in, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(w, in)
		return err
	case "xzkern", "xz":
		return xzstream.Copy(w, r)
	case "lzma":
		in, err := lzma.ReaderConfig{DictCap: 64 << 20}.NewReader(r) // a limit
		if err != nil {
			return err
		}
		_, err = io.Copy(w, in)
		return err
	}
	return fmt.Errorf("%w: unknown compression", ErrFormat)
}

// limited refuses what is beyond its limit.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, fmt.Errorf("%w: %d bytes more than allowed, at least", ErrFormat, -l.left)
	}
	return l.w.Write(p)
}
