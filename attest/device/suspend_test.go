package device_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestSuspend: a suspend to RAM changes nothing but the count of restarts, and the cap outlives it. A TPM that lost
// its state on the way has empty PCRs, with which nothing works any more.
func TestSuspend(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	c := s.client(m)
	r, err := c.Boot(t.Context(), m.logs())
	if err != nil {
		t.Fatal(err)
	}
	booted := s.verdict.Verified.Clock
	m.record(t, event.PCRImage, event.CapRecord())
	a, err := device.NewAgentKey(t.Context(), m.TPM.TPM, r.AgentApproval, nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	sign := func() error { _, err := a.Sign(rand.Reader, digest[:], crypto.SHA256); return err }

	m.Suspend(t)
	if err := sign(); err != nil {
		t.Errorf("agent key after a suspend: %v", err)
	}
	if _, err := c.Renew(t.Context(), m.logs()); err != nil {
		t.Fatalf("renewal after a suspend: %v", err)
	}
	if now := s.verdict.Verified.Clock; now.ResetCount != booted.ResetCount || now.RestartCount != booted.RestartCount+1 {
		t.Errorf("the TPM counts %d resets and %d restarts; at the boot %d and %d",
			now.ResetCount, now.RestartCount, booted.ResetCount, booted.RestartCount)
	}
	if _, err := c.Boot(t.Context(), m.logs()); reasonOf(err) != wire.CodePhase {
		t.Errorf("a release after a suspend: %v; want a denial for the phase", err)
	}

	m.Reset(t)
	if err := sign(); !errors.Is(err, device.ErrTPMPolicy) {
		t.Errorf("agent key after a reset: %v; want ErrTPMPolicy", err)
	}
	for name, ask := range map[string]func() error{
		"renewal": func() error { _, err := c.Renew(t.Context(), m.logs()); return err },
		"release": func() error { _, err := c.Boot(t.Context(), m.logs()); return err },
	} {
		if err := ask(); reasonOf(err) != wire.CodeReplay {
			t.Errorf("a %s after a reset: %v; want a denial, since the log gives other PCRs", name, err)
		}
	}
}
