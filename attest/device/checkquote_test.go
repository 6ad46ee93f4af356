package device_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestOtherVerifierAgrees gives the quote of a real exchange, and changed ones, to tpm2-tools, which share no code with
// us.
func TestOtherVerifierAgrees(t *testing.T) {
	tool, err := exec.LookPath("tpm2_checkquote")
	if err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	if _, err := s.client(m).Boot(context.Background(), m.logs()); err != nil {
		t.Fatal(err)
	}
	var e wire.Evidence
	if err := wire.Unmarshal(s.received[wire.PathEvidence], &e); err != nil {
		t.Fatal(err)
	}
	_, ak, err := keys.ParsePublic(s.verdict.Verified.Device.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ak)
	if err != nil {
		t.Fatal(err)
	}
	transcript := wire.Transcript(e.M1, e.M2)
	check := func(quote, signature, nonce []byte) ([]byte, error) {
		t.Helper()
		dir := t.TempDir()
		for name, data := range map[string][]byte{
			"ak.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "quote": quote, "signature": signature,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.CommandContext(t.Context(), tool, "-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256", "-q", hex.EncodeToString(nonce))
		c.Dir = dir
		return c.CombinedOutput()
	}
	if out, err := check(e.Quote, e.QuoteSignature, transcript[:]); err != nil {
		t.Errorf("we accept what tpm2_checkquote does not: %v\n%s", err, out)
	}
	flip := func(b []byte, i int) []byte {
		b = append([]byte(nil), b...)
		b[i] ^= 1
		return b
	}
	for name, args := range map[string][3][]byte{
		"quote":     {flip(e.Quote, len(e.Quote)-1), e.QuoteSignature, transcript[:]},
		"signature": {e.Quote, flip(e.QuoteSignature, 20), transcript[:]},
		"nonce":     {e.Quote, e.QuoteSignature, flip(transcript[:], 0)},
	} {
		if _, err := check(args[0], args[1], args[2]); err == nil {
			t.Errorf("tpm2_checkquote accepts another %s: the comparison proves nothing", name)
		}
	}
}
