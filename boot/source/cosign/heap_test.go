package cosign_test

import (
	"testing"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: a bundle is decoded before its signatures are checked.
func TestHeap(t *testing.T) {
	ks, img := keys(t, "ecdsa"), image(t)
	for _, form := range []string{
		`%s`, `{"mediaType":"` + cosign.BundleType + `","dsseEnvelope":%s}`,
		`{"mediaType":"` + cosign.BundleType + `","dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","signatures":%s}}`,
		`{"mediaType":"` + cosign.BundleType + `","dsseEnvelope":{"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":%s}]}}`,
		`{"mediaType":"` + cosign.BundleType + `","verificationMaterial":%s}`,
	} {
		heaptest.Bound{Fixed: 1 << 20, PerByte: 8}.JSON(t, form, 1<<20, func(raw []byte) {
			cosign.VerifyBundle(raw, cosign.Demand{Image: img}, ks)
		})
	}
}
