package luks

import (
	"bytes"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: a header is on a disk that anybody can have written.
func TestHeap(t *testing.T) {
	heaptest.Bound{Fixed: 1 << 20, PerByte: 16}.Mutated(t, "header", append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 4088)...), 1<<22, func(raw []byte) { Check(raw) })
	for _, form := range []string{`%s`, `{"keyslots":%s}`, `{"segments":%s}`, `{"tokens":%s}`, `{"digests":{"0":%s}}`} {
		heaptest.Bound{Fixed: 1 << 20, PerByte: 64}.JSON(t, form, 1<<20, func(raw []byte) {
			head := append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 4088)...)
			Check(bytes.Join([][]byte{head, raw}, nil))
		})
	}
}
