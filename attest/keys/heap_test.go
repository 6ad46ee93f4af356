package keys

import (
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/heaptest"
)

func TestHeap(t *testing.T) {
	agent, err := AgentKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"EC": tpm2.Marshal(*withPoint(t, *agent)), "RSA": tpm2.Marshal(rsaHigh())} {
		heaptest.Bound{Fixed: 256 << 10, PerByte: 16}.Mutated(t, name, raw, 1<<16, func(raw []byte) { ParsePublic(raw) })
	}
}
