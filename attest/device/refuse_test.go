package device_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestOtherAnswers: attestd itself signs the answer to this very request, and it is not what was asked for.
func TestOtherAnswers(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	c := s.client(m)
	s.change = func(path string, answer []byte) []byte {
		var (
			h   wire.Hello
			r   wire.Release
			err error
		)
		switch path {
		case wire.PathHello:
			if err = wire.Payload(answer, &h); err == nil {
				h.Nonce[0]++
				answer, err = wire.Sign(s.server, wire.DomainHello, wire.HashMessage(s.received[path]), &h)
			}
		case wire.PathEvidence:
			if err = wire.Payload(answer, &r); err == nil {
				r.Phase, r.AgentCertificate = wire.PhaseRenew, []byte("CERT")
				r.Credential, r.EncryptedSecret, r.Approval, r.Box = nil, nil, nil, nil
				answer, err = wire.Sign(s.server, wire.DomainRelease, s.verdict.Verified.Transcript, &r)
			}
		}
		if err != nil {
			t.Error(err)
		}
		return answer
	}
	_, err := c.Hello(ctx, "")
	wantRefused(t, err, device.ErrProtocol, "another nonce")
	_, err = c.Boot(ctx, m.logs())
	wantRefused(t, err, device.ErrProtocol, "for phase \"renew\"")
}

func wantRefused(t *testing.T, err, target error, message string) {
	t.Helper()
	if !errors.Is(err, target) || !strings.Contains(err.Error(), message) {
		t.Errorf("%v, want %v with %q", err, target, message)
	}
}

// TestAgentKeyRefuses: an approval that is for no key, a certificate for another, and what the key does not sign.
func TestAgentKeyRefuses(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	r, err := s.client(m).Boot(ctx, m.logs())
	if err != nil {
		t.Fatal(err)
	}
	a, err := device.NewAgentKey(ctx, m.TPM.TPM, r.AgentApproval, &x509.Certificate{PublicKey: s.verdict.Verified.AgentKey})
	if err != nil {
		t.Fatal(err)
	}
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&wide.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var approval wire.AgentApproval
	if err := wire.Unmarshal(r.AgentApproval, &approval); err != nil {
		t.Fatal(err)
	}
	approval.ReleaseKey = der
	other, err := wire.Marshal(&approval)
	if err != nil {
		t.Fatal(err)
	}
	_, p384 := device.NewAgentKey(ctx, m.TPM.TPM, other, nil)
	_, stranger := device.NewAgentKey(ctx, m.TPM.TPM, r.AgentApproval, &x509.Certificate{PublicKey: &newKey(t).PublicKey})
	_, sha384 := a.Sign(rand.Reader, make([]byte, 48), crypto.SHA384)
	_, short := a.Sign(rand.Reader, make([]byte, 31), crypto.SHA256)
	for want, err := range map[string]error{
		"want ECDSA P-256": p384, "certificate is for another key": stranger, "not SHA-384": sha384, "signs SHA-256 only": short,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

// TestForgedKeys: somebody on the bus changes the public areas of the keys that the TPM makes.
func TestForgedKeys(t *testing.T) {
	ctx := context.Background()
	const attributes = 26 // of a key in the response to CreatePrimary: the byte with noDA in it
	m := start(t, tpmtest.Options{Identity: 32})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	c := s.client(m)
	forge := func(at func(response []byte) int) *tpm.TPM {
		return tpm.New("bus", &bus{tpm: m.TPM.TPM, sent: map[tpm2.TPMCC][]byte{}, forge: func(cc tpm2.TPMCC, response []byte) {
			if cc == tpm2.TPMCCCreatePrimary {
				response[at(response)] ^= 4
			}
		}})
	}
	c.TPM = forge(func([]byte) int { return attributes })
	_, err := c.Boot(ctx, m.logs())
	wantRefused(t, err, device.ErrTPM, "another key than it was asked for")

	// An endorsement key that its certificate is not for is sent without the certificate.
	evictEKs(t, m)
	c.TPM = forge(func(response []byte) int {
		size := int(response[18])<<8 | int(response[19]) // of the public area, which ends with the modulus or the point
		return 20 + size - 2
	})
	if _, err := c.Boot(ctx, m.logs()); err == nil {
		t.Error("a forged endorsement key was taken")
	}
	_, d, err := wire.ParseRequest(s.received[wire.PathChallenge])
	if err != nil || len(d.EKCertificate) != 0 {
		t.Errorf("a certificate of %d bytes went along (%v)", len(d.EKCertificate), err)
	}
}
