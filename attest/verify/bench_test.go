package verify_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/verify/verifytest"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
)

// world is a site and a device that attests to it.
type world struct {
	site            *verify.Site
	server, release *ecdsa.PrivateKey
	device          *verifytest.Device
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{server: newKey(t), release: newKey(t)}
	w.site = &verify.Site{Name: "bench", ReleaseKey: &w.release.PublicKey}
	firmware, err := os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin")
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("5a", 32)
	image, err := event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: digest, Size: 1}, {Role: event.RoleCmdline, SHA256: digest, Size: 1},
	}}.Records()
	if err != nil {
		t.Fatal(err)
	}
	if w.device, err = verifytest.New(&w.release.PublicKey, firmware, image,
		[]event.Record{{Type: event.TypeSiteConfig, SHA256: digest}, {Type: event.TypeClock, Name: "attestd"}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) evidence(t testing.TB) []byte {
	t.Helper()
	m1, err := w.device.Request(w.site.Name)
	if err != nil {
		t.Fatal(err)
	}
	m2, _, err := w.site.Challenge(time.Now(), m1, w.server)
	if err != nil {
		t.Fatal(err)
	}
	m3, err := w.device.Evidence(m1, m2)
	if err != nil {
		t.Fatal(err)
	}
	return m3
}

func agree(*verify.Verified) []wire.Reason { return nil }

func (w *world) decide(t testing.TB, m3 []byte) {
	v := w.site.Judge(time.Now(), m3, agree)
	if !v.Allowed() {
		t.Fatal(v.Reasons)
	}
	secrets := &wire.Secrets{Version: wire.Version, SealKey: make([]byte, 32), AgentCertificate: []byte("c"), SiteCA: []byte("c")}
	if _, _, err := verify.NewRelease(v, verify.Grant{Decision: "d", ReleaseKey: w.release, ServerKey: w.server, Secrets: secrets}); err != nil {
		t.Fatal(err)
	}
}

// floor is the public-key work that no verifier of this protocol can leave out: two signatures of the AK to verify, the
// credential to encrypt, two approvals and M4 to sign.
func (w *world) floor(t testing.TB, digest []byte, signature []byte) {
	for range 2 {
		if !ecdsa.VerifyASN1(&w.device.AK.PublicKey, digest, signature) {
			t.Fatal("signature does not verify")
		}
	}
	if _, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &w.device.EK.PublicKey, digest, []byte("IDENTITY\x00")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := ecdsa.SignASN1(rand.Reader, w.server, digest); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkDecision is one decision, from M3 to M4, and its ratio to the bare cryptography in it. Both are measured in
// turns, so that a busy machine slows both.
func BenchmarkDecision(b *testing.B) {
	w := newWorld(b)
	m3 := w.evidence(b)
	digest := sha256.Sum256(m3)
	signature, err := ecdsa.SignASN1(rand.Reader, w.device.AK, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	var decide, floor time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		w.decide(b, m3)
		middle := time.Now()
		w.floor(b, digest[:], signature)
		decide, floor = decide+middle.Sub(start), floor+time.Since(middle)
	}
	b.ReportMetric(float64(decide.Microseconds())/float64(b.N), "attest_decision_us")
	b.ReportMetric(float64(floor.Microseconds())/float64(b.N), "attest_floor_us")
	b.ReportMetric(float64(decide)/float64(floor), "attest_ratio")
}
