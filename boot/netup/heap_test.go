package netup

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	heaptest.Bound{Fixed: 64 << 10, PerByte: 16}.Mutated(t, "RDNSS", option(1), 1<<16, func(raw []byte) { rdnss(raw, 1) })
}
