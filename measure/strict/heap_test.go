package strict

import (
	"encoding/json"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: names are remembered to find repeated ones, and what is unknown is refused before it is decoded.
func TestHeap(t *testing.T) {
	for _, form := range []string{`%s`, `{"list":%s}`, `{"map":%s}`, `{"else":%s}`} {
		heaptest.Bound{Fixed: 4 << 20, PerByte: 64}.JSON(t, form, 1<<20, func(raw []byte) {
			var v struct {
				List []struct{ A, B, C, D string } `json:"list"`
				Map  map[string]json.RawMessage    `json:"map"`
			}
			Decode(raw, &v)
		})
	}
}
