package armor

import (
	"bytes"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	heaptest.Bound{Fixed: 1 << 20, PerByte: 16}.Mutated(t, "log", []byte(printed(t, bytes.Repeat([]byte("log"), 1000))), 1<<20, func(raw []byte) { Find(raw) })
}
