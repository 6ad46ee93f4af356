package server

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify/verifytest"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
)

// softDevice enrols a device without a TPM, and adds the policy that admits it.
func (l *lab) softDevice(b testing.TB) *verifytest.Device {
	b.Helper()
	raw, err := os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin")
	if err != nil {
		b.Fatal(err)
	}
	log, err := fwlog.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	digest := strings.Repeat("5a", 32)
	release, err := keys.ReleaseKeyRecord(l.site.ReleasePublic())
	if err != nil {
		b.Fatal(err)
	}
	loader := &policy.Loader{Header: policy.Header{Version: policy.Version, Kind: policy.KindLoader, Name: "loader"},
		SiteConfig: digest, ReleaseKey: release.Detail["name"]}
	for _, e := range log.Events {
		switch {
		case e.PCR == 4 && e.Type == fwlog.EventEFIBootServicesApp:
			loader.PCR4 = append(loader.PCR4, policy.DigestsOf(e.Digests))
		case e.PCR == 11:
			loader.PCR11 = append(loader.PCR11, policy.DigestsOf(e.Digests))
		}
	}
	profile, err := policy.RecordProfile("ovmf", policy.RootVirtual, log, loader)
	if err != nil {
		b.Fatal(err)
	}
	image, err := policy.NewImage("os", "", 1, event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: digest, Size: 1}, {Role: event.RoleCmdline, SHA256: digest, Size: 1},
	}}, []tpm2.TPMAlgID{verifytest.Bank})
	if err != nil {
		b.Fatal(err)
	}
	for _, doc := range []policy.Document{loader, profile, image, policy.DefaultRules("rules", policy.RootVirtual)} {
		kind, name := policy.NameOf(doc)
		body, err := policy.Marshal(doc)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.store.Add(b.Context(), store.Document{Kind: string(kind), Name: name, Body: body}, store.Event{}); err != nil {
			b.Fatal(err)
		}
	}
	d, err := verifytest.New(l.site.ReleasePublic(), raw, image.Records, []event.Record{
		{Type: event.TypeSiteConfig, SHA256: digest}, {Type: event.TypeProvenance, Name: "oci", SHA256: digest}, release,
		{Type: event.TypeClock, Name: "attestd"},
	})
	if err != nil {
		b.Fatal(err)
	}
	enrolled := store.Device{ID: d.ID(), EKs: []string{d.ID()}, State: store.Enrolled, Tier: "hash", Label: "soft"}
	if err := l.store.Enrol(b.Context(), enrolled, store.Event{Kind: "enrol"}); err != nil {
		b.Fatal(err)
	}
	return d
}

func send(h http.Handler, path string, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", wire.ContentType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// evidenceOf makes an M3 that the server has not seen.
func evidenceOf(b testing.TB, h http.Handler, d *verifytest.Device) []byte {
	b.Helper()
	m1, err := d.Request("lab")
	if err != nil {
		b.Fatal(err)
	}
	m2 := send(h, wire.PathChallenge, m1)
	if m2.Code != http.StatusOK {
		b.Fatalf("challenge: %d %s", m2.Code, m2.Body)
	}
	m3, err := d.Evidence(m1, m2.Body.Bytes())
	if err != nil {
		b.Fatal(err)
	}
	return m3
}

// BenchmarkServer is the whole of attestd behind its HTTP handler: policy, agent certificate, release, and a durable
// transaction in SQLite. A batch arrives at once, as after a power cut.
func BenchmarkServer(b *testing.B) {
	const batch = 64
	l := newBareLab(b)
	d, h := l.softDevice(b), l.server.Devices()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		l.server.quiet.paces[releases] = newPace(1e9, 1e9, 1) // one device stands for many
		all := make([][]byte, batch)
		for i := range all {
			all[i] = evidenceOf(b, h, d)
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, m3 := range all {
			wg.Go(func() {
				if w := send(h, wire.PathEvidence, m3); w.Code != http.StatusOK {
					b.Errorf("evidence: %d %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		n += batch
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "attest_decisions_per_s")
}
