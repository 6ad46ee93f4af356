package uki

import (
	"bytes"
	"io"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: headers are read and contents are streamed. A kernel that is compressed with zstd may ask for a window.
func TestHeap(t *testing.T) {
	for name, valid := range map[string][]byte{"stub": testStub(1024), "zboot": zbootOf("gzip", []byte("x")), "zboot, zstd": zbootOf("zstd", zstdHead())} {
		heaptest.Bound{Fixed: maxZstdWindow + 16<<20, PerByte: 2}.Mutated(t, name, valid, 1<<20, func(raw []byte) {
			r := bytes.NewReader(raw)
			if z, err := ParseZboot(r, int64(len(raw))); err == nil {
				_ = z.Unwrap(io.Discard, r, 1<<16)
			}
			_, _ = ParseBzImage(r, int64(len(raw)))
			_, _ = Parse(r, int64(len(raw)))
		})
		heaptest.Bound{Fixed: 1 << 20, PerByte: 2}.Mutated(t, name+", headers", valid, 1<<20, func(raw []byte) {
			r := bytes.NewReader(raw)
			_, _ = ParseZboot(r, int64(len(raw)))
			_, _ = ParseBzImage(r, int64(len(raw)))
			_, _ = Parse(r, int64(len(raw)))
		})
	}
}

// zstdHead is a frame with a window of 64 MiB and a block of one byte, 1,000 times.
func zstdHead() []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3, 0x42, 0x1f, 0, 'x'}
}
