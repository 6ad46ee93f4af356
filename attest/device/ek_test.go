package device_test

import (
	"context"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestEKIsCreatedOnce: on a TPM without a persistent key, hello and every exchange of one boot share one creation, and
// nothing stays loaded.
func TestEKIsCreatedOnce(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{Identity: 31})
	evictEKs(t, m)
	m.measureImage(t)
	s := newSite(t, "shop-1")
	created := 0
	b := &bus{tpm: m.TPM.TPM, sent: map[tpm2.TPMCC][]byte{}, before: func(cc tpm2.TPMCC) {
		if cc == tpm2.TPMCCCreatePrimary {
			created++
		}
	}}
	client := s.client(m)
	client.TPM = tpm.New("bus", b)
	if _, err := client.EK(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := client.Boot(ctx, m.logs()); err != nil {
			t.Fatal(err)
		}
	}
	if want := 1 + 2*2; created != want { // the EK, then AK and agent key for each exchange
		t.Errorf("%d keys were created, want %d", created, want)
	}
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 8}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	if loaded, err := rsp.CapabilityData.Data.Handles(); err != nil || len(loaded.Handle) != 0 {
		t.Errorf("still loaded: %v, %v", loaded, err)
	}
	// After a reset the saved key does not load, and is made anew.
	m.Reset(t)
	m.bootFirmware(t)
	m.measureImage(t)
	created = 0
	if _, err := client.Boot(ctx, m.logs()); err != nil {
		t.Fatal(err)
	}
	if created != 3 {
		t.Errorf("%d keys were created after a reset, want 3", created)
	}
}

// evictEKs takes the persistent endorsement keys away.
func evictEKs(t *testing.T, m *machine) {
	t.Helper()
	for _, kind := range keys.EKs() {
		rsp, err := tpm2.ReadPublic{ObjectHandle: kind.Handle}.Execute(m)
		if err != nil {
			continue
		}
		if _, err := (tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: kind.Handle, Name: rsp.Name},
			PersistentHandle: kind.Handle,
		}).Execute(m); err != nil {
			t.Fatal(err)
		}
	}
}
