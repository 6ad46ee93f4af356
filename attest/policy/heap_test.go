package policy

import (
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: documents are decoded before their signature is checked.
func TestHeap(t *testing.T) {
	for _, form := range []string{
		`%s`, `{"kind":"image","artifacts":%s}`, `{"kind":"loader","events":%s}`, `{"kind":"rules","banks":%s}`, `{"kind":"profile","events":%s}`, `{"kind":"image","else":%s}`,
	} {
		heaptest.Bound{Fixed: 1 << 20, PerByte: 48}.JSON(t, form, MaxSize, func(raw []byte) { Parse(raw) })
	}
}
