package cel

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	heaptest.Bound{Fixed: 256 << 10, PerByte: 24}.Mutated(t, "log", encode(t, sample(t)), MaxSize, func(raw []byte) { Parse(raw) })
}
