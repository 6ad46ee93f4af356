package device_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestBoot runs the whole protocol on every kind of TPM: hello, boot, ack, the cap, the agent key, renewal.
func TestBoot(t *testing.T) {
	for name, opts := range map[string]tpmtest.Options{
		"RSA-2048 sha256":     {EK: tpmtest.RSA2048},
		"RSA-2048 both banks": {EK: tpmtest.RSA2048, Banks: banksBoth},
		"P-256 sha256":        {EK: tpmtest.P256},
		"P-384 both banks":    {EK: tpmtest.P384, Banks: banksBoth},
		"P-384 sha384 only":   {EK: tpmtest.P384, Banks: []tpm2.TPMAlgID{tpm2.TPMAlgSHA384}},
		"no EK certificate":   {EK: tpmtest.NoEK},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, opts)
			s := newSite(t, "shop-1")
			s.EKRoots = m.Pool(t)
			testBoot(t, m, s, opts.EK != tpmtest.NoEK)
		})
	}
}

func testBoot(t *testing.T, m *machine, s *site, endorsed bool) {
	ctx := context.Background()
	c := s.client(m)
	ek, err := c.EK(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.Hello(ctx, ek)
	if err != nil || h.HealthyVersion != 7 {
		t.Fatalf("Hello() = %+v, %v", h, err)
	}
	m.measureImage(t)
	r, err := c.Boot(ctx, m.logs())
	if err != nil {
		t.Fatal(err)
	}
	if string(r.SealKey) != string(s.secrets.SealKey) || !r.FirstBoot || string(r.AgentCert) != "CERT" || string(r.Secrets["token"]) != "t" {
		t.Errorf("release = %+v", r)
	}
	if got := s.verdict.Verified.Device.ID(); got != ek {
		t.Errorf("attestd knows the device as %s, it knows itself as %s", got, ek)
	}
	if err := s.verdict.Verified.Endorsement; (err == nil) != endorsed {
		t.Errorf("endorsement: %v", err)
	}
	if err := c.Ack(ctx, r); err != nil || len(s.acked) != 1 {
		t.Errorf("Ack: %v, %v", err, s.acked)
	}
	testAgentKey(t, m, s, r)
	if err := m.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func testAgentKey(t *testing.T, m *machine, s *site, r *device.Release) {
	ctx := context.Background()
	a, err := device.NewAgentKey(ctx, m.TPM.TPM, r.AgentApproval, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Public().(*ecdsa.PublicKey).Equal(s.verdict.Verified.AgentKey) {
		t.Error("the agent key is not the one that was attested")
	}
	digest := sha256.Sum256([]byte("message"))
	if _, err := a.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, device.ErrTPMPolicy) {
		t.Errorf("before the cap the agent key gives %v, want ErrTPMPolicy", err)
	}
	m.record(t, event.PCRImage, event.CapRecord())
	m.extendRaw(t, 11) // as systemd-pcrphase does
	m.extendRaw(t, 15)
	sig, err := a.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatalf("after the cap: %v", err)
	}
	if !ecdsa.VerifyASN1(a.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature does not verify")
	}
	c := s.client(m)
	if _, err := c.Boot(ctx, m.logs()); reasonOf(err) != wire.CodeReplay {
		// PCR 11 has moved on; the cap alone is tested in TestDenied.
		t.Errorf("a release after the cap: %v", err)
	}
	renewed, err := c.Renew(ctx, m.logs())
	if err != nil || string(renewed.AgentCert) != "CERT2" {
		t.Fatalf("Renew() = %+v, %v", renewed, err)
	}
	if a, err = device.NewAgentKey(ctx, m.TPM.TPM, renewed.AgentApproval, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		t.Errorf("with the renewed approval: %v", err)
	}
	m.extendRaw(t, 4) // another OS, another loader
	if _, err := a.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, device.ErrTPMPolicy) {
		t.Errorf("in another OS the agent key gives %v, want ErrTPMPolicy", err)
	}
}

// reasonOf is the code of the first reason of a denial.
func reasonOf(err error) wire.Code {
	var d *device.Denied
	if errors.As(err, &d) && len(d.Reasons) > 0 {
		return d.Reasons[0].Code
	}
	return ""
}

var _ verify.Appraiser
