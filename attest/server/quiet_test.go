package server

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// denyAll is a policy that a stranger's evidence meets.
func denyAll([]store.Document) (appraiseFunc, error) {
	return func(*verify.Verified, policy.Device) finding {
		return finding{reasons: []wire.Reason{{Code: wire.CodeImage, Detail: "no"}}}
	}, nil
}

// TestDenialsFillNoAuditLog sends, as anyone can who knows an EK's public key, evidence that is denied.
func TestDenialsFillNoAuditLog(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	before := len(l.events())
	const sent = denialBurst + 30
	for range sent {
		w := send(h, wire.PathEvidence, evidenceOf(t, h, d))
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"code":"image"`) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if n := len(l.events()) - before; n != denialBurst {
		t.Errorf("%d audit records for %d denials, want %d", n, sent, denialBurst)
	}
	now = now.Add(time.Minute + time.Second)
	send(h, wire.PathEvidence, evidenceOf(t, h, d))
	events := l.events()
	if n := len(events) - before; n != denialBurst+1 {
		t.Errorf("%d audit records after a minute, want %d", n, denialBurst+1)
	}
	if got := events[len(events)-1].Detail["unrecorded"]; !strings.HasPrefix(got, "30 denials") {
		t.Errorf("the next record tells of %q, want 30 denials", got)
	}
	// The device itself, admitted again, is not kept waiting by what a stranger did in its name.
	l.server.appraisers = appraisers{parse: admitAll}
	if w := send(h, wire.PathEvidence, evidenceOf(t, h, d)); w.Code != http.StatusOK {
		t.Errorf("a good boot after many denials: %d %s", w.Code, w.Body)
	}
}

// TestReleasesHaveAPace: evidence with good logs and a software AK looks good, and each release is a record.
func TestReleasesHaveAPace(t *testing.T) {
	l := newBareLab(t)
	now := time.Now()
	l.server.Now = func() time.Time { return now }
	d, h := l.softDevice(t), l.server.Devices()
	for i := range releaseBurst + 1 {
		w := send(h, wire.PathEvidence, evidenceOf(t, h, d))
		if want := i < releaseBurst; (w.Code == http.StatusOK) != want {
			t.Fatalf("release %d: %d %s", i, w.Code, w.Body)
		}
	}
}

// TestReportHidesNoDenial: what a loader reports of its denial is less than what attestd knows.
func TestReportHidesNoDenial(t *testing.T) {
	l := newBareLab(t)
	d, h := l.softDevice(t), l.server.Devices()
	l.server.appraisers.parse = denyAll
	send(h, wire.PathEvidence, evidenceOf(t, h, d))
	report := func(stage string) store.Status {
		t.Helper()
		raw, err := wire.Marshal(&wire.Report{Version: wire.Version, Site: "lab", EK: d.ID(), Stage: stage, Reason: "denied", Loader: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if w := send(h, wire.PathReport, raw); w.Code != http.StatusOK {
			t.Fatalf("report: %d %s", w.Code, w.Body)
		}
		dev, err := l.store.Device(t.Context(), d.ID())
		if err != nil {
			t.Fatal(err)
		}
		return dev.Attempt
	}
	if a := report("attest"); a.Verdict != "deny" {
		t.Errorf("after a report about attestation: %+v", a)
	}
	if a := report("fetch"); a.Verdict != "report" || a.Stage != "fetch" {
		t.Errorf("after a report about another stage: %+v", a)
	}
}
