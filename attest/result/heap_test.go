package result

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	for _, form := range []string{`%s`, `{"protected":"","payload":%s,"signature":""}`} {
		heaptest.Bound{Fixed: 256 << 10, PerByte: 48}.JSON(t, form, maxSize, func(raw []byte) { Parse(raw) })
	}
}
