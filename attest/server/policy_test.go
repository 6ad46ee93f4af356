package server

import (
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
)

var bootImage = event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
	{Role: "kernel", SHA256: strings.Repeat("11", 32), Size: 10}, {Role: "cmdline", SHA256: strings.Repeat("22", 32), Size: 3},
}}

// measureAll extends what a loader does for this image, provenance and floor included.
func (m *machine) measureAll(t *testing.T, d event.Descriptor, floor string) device.Logs {
	t.Helper()
	records, err := d.Records()
	if err != nil {
		t.Fatal(err)
	}
	if m.recorder, err = measure.NewRecorder(m.TPM); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := m.recorder.Extend(t.Context(), event.PCRImage, r); err != nil {
			t.Fatal(err)
		}
	}
	sum := strings.Repeat("33", 32)
	for _, r := range []event.Record{
		{Type: event.TypeSiteConfig, SHA256: sum, Size: 1}, {Type: event.TypeProvenance, Name: "oci", SHA256: sum, Size: 1},
		{Type: event.TypeReleaseKey, SHA256: sum, Size: 1}, {Type: event.TypeClock, Name: "attestd"},
		floorRecord(floor),
	} {
		if err := m.recorder.Extend(t.Context(), event.PCRAuthority, r); err != nil {
			t.Fatal(err)
		}
	}
	return device.Logs{Events: m.recorder.Log()}
}

// floorRecord is of a floor in the TPM with this image version; empty means of none.
func floorRecord(version string) event.Record {
	if version == "" {
		return event.Record{Type: event.TypeFloor, Name: event.FloorAbsent}
	}
	return event.Record{Type: event.TypeFloor, Name: event.FloorNV, Detail: map[string]string{"image": version}}
}

func (l *lab) addDocument(d policy.Document) {
	l.t.Helper()
	raw, err := policy.Marshal(d)
	if err != nil {
		l.t.Fatal(err)
	}
	kind, name := policy.NameOf(d)
	if err := l.store.Add(l.t.Context(), store.Document{Kind: string(kind), Name: name, Body: raw}, store.Event{Kind: "policy"}); err != nil {
		l.t.Fatal(err)
	}
}

// TestPolicyDocuments runs the real appraisal over documents that change while the server runs.
func TestPolicyDocuments(t *testing.T) {
	l := newLabWith(t, func(*Server) {})
	m := l.machine(1)
	id := l.enrol(m)
	ctx := t.Context()
	logs := m.measureAll(t, bootImage, "5")
	if _, err := m.Boot(ctx, logs); !denied(err, wire.CodePolicy) {
		t.Fatalf("without documents: %v", err)
	}
	l.addDocument(policy.DefaultRules("rules", policy.RootVirtual))
	image, err := policy.NewImage("os-7", "", 7, bootImage, []tpm2.TPMAlgID{tpm2.TPMAlgSHA256})
	if err != nil {
		t.Fatal(err)
	}
	l.addDocument(image)
	if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeUnmeasured) {
		t.Fatalf("unmeasured firmware: %v", err)
	}
	p := store.DevicePolicy{AllowUnmeasured: true, Images: []string{"os-7"}}
	if err := l.store.SetPolicy(ctx, id, p, store.Event{Kind: "device-policy"}); err != nil {
		t.Fatal(err)
	}
	r, err := m.Boot(ctx, logs)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ack(ctx, r); err != nil {
		t.Fatal(err)
	}
	seen, err := l.store.Versions(ctx, id)
	if err != nil || seen["image"] != 7 || seen["floor/image"] != 5 {
		t.Errorf("highest versions %v, %v", seen, err)
	}
	// A thief who lowered the floor is noticed, although nothing else is wrong.
	m.tpm.Reset(t)
	if r, err = m.Boot(ctx, m.measureAll(t, bootImage, "4")); err != nil {
		t.Fatal(err)
	}
	if d, err := l.store.Device(ctx, id); err != nil || !strings.Contains(d.Attempt.Reason, "went back: floor/image 4") {
		t.Errorf("lowered floor: %+v, %v", d.Attempt, err)
	}
	if err := m.Ack(ctx, r); err != nil {
		t.Fatal(err)
	}
	if seen, err = l.store.Versions(ctx, id); err != nil || seen["floor/image"] != 5 {
		t.Errorf("the highest floor was lowered to %d", seen["floor/image"])
	}
	if page := l.get("/"); !strings.Contains(page, "went back: floor/image 4, had shown 5 before") {
		t.Errorf("the status page does not say so:\n%s", page)
	}
	// One who took it away gets nothing.
	m.tpm.Reset(t)
	if _, err := m.Boot(ctx, m.measureAll(t, bootImage, "")); !denied(err, wire.CodeRollback) {
		t.Errorf("boot without the floor: %v; want a denial", err)
	}
	if err := l.store.Retire(ctx, "image", "os-7", store.Event{Kind: "policy"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(ctx, device.Logs{Events: m.recorder.Log()}); !denied(err, wire.CodeImage) {
		t.Errorf("retired image: %v", err)
	}
}

// TestBrokenDocumentDeniesEverything: a policy that cannot be read is no reason to admit anybody.
func TestBrokenDocumentDeniesEverything(t *testing.T) {
	l := newLabWith(t, func(*Server) {})
	m := l.machine(1)
	l.enrol(m)
	if err := l.store.Add(t.Context(), store.Document{Kind: "rules", Name: "x", Body: []byte(`{}`)}, store.Event{}); err != nil {
		t.Fatal(err)
	}
	tap := l.tap(m)
	if r, err := m.Boot(t.Context(), m.measure(t, "good")); err == nil || r != nil {
		t.Errorf("Boot = %v, %v", r, err)
	}
	if status, code := l.post(l.client(), wire.PathEvidence, tap.sent[wire.PathEvidence]); status != 503 || code != wire.CodeUnavailable {
		t.Errorf("%d %s", status, code)
	}
}
