package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/wire"
)

// TestRotation follows docs/operations.md: a second directory with new keys next to the first, over the same store and
// with the same seal key, while devices change from the old loader to the new one.
func TestRotation(t *testing.T) {
	before := newLab(t)
	m := before.machine(1)
	id := before.enrol(m)
	r, _ := boot(t, m, "good")
	if err := m.Ack(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	was, err := before.store.Device(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}

	devices := listen(t, "127.0.0.1:0")
	after := &lab{t: t, dir: filepath.Join(t.TempDir(), "site"), url: "https://" + devices.Addr().String(), change: before.change}
	set := site.Settings{Name: "lab", URL: after.url, Endorsement: site.EndorsedByHash, Replica: "b", Store: filepath.Join(before.dir, "attestd.db")}
	if err := site.Init(after.dir, set, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"seal.key", "kek.key"} {
		raw, err := os.ReadFile(filepath.Join(before.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(after.dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after.start(devices)

	// The new loader on the same machine: other pinned keys, the same device and volume.
	fresh := &machine{tpm: m.tpm, Client: after.clientFor(m)}
	m.tpm.Reset(t)
	second, _ := boot(t, fresh, "good")
	if second.FirstBoot || string(second.SealKey) != string(r.SealKey) {
		t.Errorf("after the rotation: first boot %v, the same seal key %v", second.FirstBoot, string(second.SealKey) == string(r.SealKey))
	}
	if err := fresh.Ack(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	now, err := after.store.Device(t.Context(), id)
	if err != nil || now.AKName == was.AKName || now.AgentName == was.AgentName {
		t.Errorf("keys of the old release key are still those of the device, or %v", err)
	}
	// A device with the old loader is served as before, and one that mixes the two is not.
	m.tpm.Reset(t)
	if old, _ := boot(t, m, "good"); string(old.SealKey) != string(r.SealKey) {
		t.Error("the old loader gets another seal key")
	}
	mixed := *fresh.Client
	mixed.ReleaseKey = before.site.ReleasePublic()
	m.tpm.Reset(t)
	if _, err := (&machine{tpm: m.tpm, Client: &mixed}).Boot(t.Context(), m.measure(t, "good")); !denied(err, wire.CodeAK) {
		t.Errorf("old release key at the new attestd: %v, want a denial for the AK", err)
	}
}
