package event

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	for _, form := range []string{`%s`, `{"type":"cap","detail":%s}`, `{"type":%s}`} {
		heaptest.Bound{Fixed: 256 << 10, PerByte: 64}.JSON(t, form, 1<<20, func(raw []byte) { Parse(raw) })
	}
}
