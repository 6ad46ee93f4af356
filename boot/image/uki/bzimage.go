package uki

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sealboot/sealboot/measure/plaintext"
)

// BzImage is what the boot header of an x86 kernel says (boot.rst).
type BzImage struct {
	Protocol    uint16 // 0x020f is 2.15
	CmdlineSize int64  // longest command line in bytes, without the final NUL
	InitSize    int64  // bytes of contiguous memory that decompression needs
	Load64      bool   // has all that kexec_file_load of a 64-bit Linux asks for
	Version     string // "6.1.0-18-amd64 (...) #1 SMP ..."; may be empty
}

const (
	bzMinProtocol = 0x0206 // the first with cmdline_size
	bzXLoadFlags  = 0x020c // the first with xloadflags
	bzMinSize     = 1024   // bytes that bzImage64_probe (kexec-bzimage64.c) wants
	maxVersion    = 512    // bytes of the version string that are read
)

// ParseBzImage reads the boot header of a kernel file of size bytes. It
// refuses kernels older than boot protocol 2.06 (Linux 2.6.22).
func ParseBzImage(r io.ReaderAt, size int64) (*BzImage, error) {
	h := make([]byte, 0x264)
	if err := readAt(r, h, 0, size); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if string(h[0x202:0x206]) != "HdrS" || le.Uint16(h[0x1fe:]) != 0xaa55 {
		return nil, fmt.Errorf("%w: no x86 boot header", ErrFormat)
	}
	b := &BzImage{Protocol: le.Uint16(h[0x206:])}
	if b.Protocol < bzMinProtocol {
		return nil, fmt.Errorf("%w: boot protocol %#x is older than %#x", ErrFormat, b.Protocol, bzMinProtocol)
	}
	b.CmdlineSize = int64(le.Uint32(h[0x238:]))
	if b.Protocol >= 0x020a {
		b.InitSize = int64(le.Uint32(h[0x260:]))
	}
	const loadedHigh, kernel64, above4G = 1 << 0, 1 << 0, 1 << 1
	b.Load64 = b.Protocol >= bzXLoadFlags && size >= bzMinSize && h[0x211]&loadedHigh != 0 &&
		h[0x236]&kernel64 != 0 && h[0x236]&above4G != 0
	if at := int64(le.Uint16(h[0x20e:])); at != 0 {
		v := make([]byte, min(maxVersion, max(0, size-at-0x200)))
		if err := readAt(r, v, at+0x200, size); err != nil {
			return nil, err
		}
		b.Version = plaintext.Prefix(v)
	}
	return b, nil
}
