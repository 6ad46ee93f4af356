package verify

import (
	"testing"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: evidence is decoded before anything in it is known to come from a TPM.
func TestHeap(t *testing.T) {
	s := &Site{Name: "s", ReleaseKey: &newKey(t).PublicKey}
	judge := func(raw []byte) { s.Judge(now, raw, func(*Verified) []wire.Reason { return nil }) }
	for _, form := range []string{`{"version":1,"m1":%s}`, `{"version":1,"pcrValues":%s}`, `{"version":1,"eventLog":%s}`} {
		heaptest.Bound{Fixed: 1 << 20, PerByte: 8}.JSON(t, form, wire.MaxEvidence, judge)
	}
	e, _ := softEvidence(t, s)
	raw, err := wire.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	heaptest.Bound{Fixed: 1 << 20, PerByte: 32}.Mutated(t, "evidence", raw, wire.MaxEvidence, judge)
	for name, raw := range map[string][]byte{"quote": e.Quote, "signature": e.QuoteSignature} {
		heaptest.Bound{Fixed: 256 << 10, PerByte: 16}.Mutated(t, name, raw, 1<<20, func(raw []byte) {
			_, _ = parseAttest(raw, 0x8018, "x", [32]byte{})
			_ = checkSignature("x", s.ReleaseKey, raw, raw)
		})
	}
}
