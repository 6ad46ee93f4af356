package cpio

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: an archive is streamed, so what is kept is one name and one target.
func TestHeap(t *testing.T) {
	valid := pack(t, sample())
	heaptest.Bound{Fixed: 1 << 20, PerByte: 2}.Mutated(t, "archive", valid, 1<<20, func(raw []byte) {
		for r := NewReader(bytes.NewReader(raw)); ; {
			if _, err := r.Next(); err != nil {
				if errors.Is(err, io.ErrClosedPipe) {
					t.Error(err)
				}
				return
			}
			if _, err := io.Copy(io.Discard, r); err != nil {
				return
			}
		}
	})
}
