package xzstream

import (
	"bytes"
	"io"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	// All dictionaries together, each of which the decoder allocates in one piece, and the buffers of blocks.
	heaptest.Bound{Fixed: 2*MaxDict + 32<<20, PerByte: 4}.Mutated(t, "xz", packed(t, []byte("some text, some text"), "--block-size=8", "--check=none"), 1<<12, func(raw []byte) {
		Copy(io.Discard, bytes.NewReader(raw))
	})
}
