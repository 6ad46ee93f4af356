package predict

import (
	"bytes"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	valid := buildPE([]testSection{{".sdmagic", magic252, 0}, {".linux", "kernel", 0}, {".initrd", "i", 100}}, "trailer", "certs")
	heaptest.Bound{Fixed: 1 << 20, PerByte: 4}.Mutated(t, "UKI", valid, 1<<20, func(raw []byte) {
		UKI(bytes.NewReader(raw), int64(len(raw)), bothBanks[:1])
	})
}
