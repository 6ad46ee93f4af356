package qcow2

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: an image takes a cluster, a table and a decoder, whatever its header says of sizes.
func TestHeap(t *testing.T) {
	valid := header(func(b []byte) { // clusters of 512 bytes
		b[23], b[26], b[31] = 9, 0, 0
		binary.BigEndian.PutUint64(b[24:], 1000)
		binary.BigEndian.PutUint64(b[40:], 512)
		binary.BigEndian.PutUint64(b[512:], 1024)
		binary.BigEndian.PutUint64(b[1024:], 1536)
		binary.BigEndian.PutUint64(b[1032:], flagCompressed|1536)
	})[:2048]
	heaptest.Bound{Fixed: 16 << 20}.Mutated(t, "image", valid, 1<<20, func(raw []byte) {
		i, err := Open(bytes.NewReader(raw), int64(len(raw)), 1<<30)
		if err != nil {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		_ = i.Copy(ctx, &stopping{cancel: cancel})
	})
}

// stopping takes a MiB and ends the copy.
type stopping struct {
	n      int
	cancel func()
}

func (s *stopping) Write(p []byte) (int, error) {
	if s.n += len(p); s.n > 1<<20 {
		s.cancel()
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
