package server

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/agent"
	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/result"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
)

// handOver writes what the loader would leave for the OS.
func handOver(t *testing.T, r *device.Release, logs device.Logs) *agent.Handover {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		agent.FileResult: r.AttestationResult, agent.FileCertificate: r.AgentCert, agent.FileApproval: r.AgentApproval,
		agent.FileSiteCA: r.SiteCA, agent.FileSealKey: r.SealKey, agent.FileEventLog: logs.Events,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	h, err := agent.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.Uptime = func() time.Duration { return 0 } // that of the machine that tests is not the device's
	return h
}

func newAgent(l *lab, m *machine, h *agent.Handover) *agent.Agent {
	return &agent.Agent{Handover: h, Key: &agent.TPMKey{TPM: m.TPM, Handover: h, Version: "test"}, Log: l.server.Log,
		Healthy: func(context.Context) error { return nil }}
}

func boot(t *testing.T, m *machine, kernel string) (*device.Release, device.Logs) {
	t.Helper()
	logs := m.measure(t, kernel)
	r, err := m.Boot(t.Context(), logs)
	if err != nil {
		t.Fatal(err)
	}
	return r, logs
}

// TestWholeLife goes with one machine through two boots, the agent's work and a rollback.
func TestWholeLife(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	ctx := t.Context()

	r, _ := boot(t, m, "good")
	if string(r.SealKey) != string(l.site.SealKey) || !r.FirstBoot {
		t.Errorf("first release: right seal key %v, first boot %v", string(r.SealKey) == string(l.site.SealKey), r.FirstBoot)
	}
	res, err := result.Verify(r.AttestationResult, l.site.ServerPublic())
	if err != nil || res.Device != id || res.Image != "os-2" || !res.FirstBoot || res.Decision != r.DecisionID {
		t.Errorf("attestation result %+v, %v", res, err)
	}
	if d, err := l.store.Device(ctx, id); err != nil || !d.MayFormat || !d.Confirmed.Time.IsZero() {
		t.Errorf("before M5: %+v, %v", d, err)
	}
	if err := m.Ack(ctx, r); err != nil {
		t.Fatal(err)
	}
	d, err := l.store.Device(ctx, id)
	if err != nil || d.MayFormat || d.Confirmed.Image != "os-2" || d.AKName == "" {
		t.Errorf("after M5: %+v, %v", d, err)
	}

	h := handOver(t, r, m.cap(t))
	a := newAgent(l, m, h)
	first := h.Identity.Decision
	if err := a.Once(ctx); err != nil {
		t.Fatal(err)
	}
	if h.Identity.Decision == first || h.Identity.Device != id {
		t.Errorf("after the renewal: %+v", h.Identity)
	}
	hello, err := m.Hello(ctx, id)
	if err != nil || hello.HealthyVersion != 2 {
		t.Errorf("hello after the health report: %+v, %v", hello, err)
	}
	// The OS asks for a release again.
	if _, err := m.Boot(ctx, device.Logs{Events: m.recorder.Log()}); !denied(err, wire.CodePhase) {
		t.Errorf("release after the cap: %v, want a denial for the phase", err)
	}

	m.tpm.Reset(t)
	r, _ = boot(t, m, "good")
	if r.FirstBoot {
		t.Error("the second boot is called the first")
	}
	m.tpm.Reset(t)
	if _, err := m.Boot(ctx, m.measure(t, "old")); !denied(err, wire.CodeRollback) {
		t.Errorf("older image after a healthy newer one: %v, want a denial for rollback", err)
	}
	var kinds []string
	for _, e := range l.events() {
		kinds = append(kinds, e.Kind+" "+e.Verdict)
	}
	want := []string{"enrol ", "decision allow", "ack ", "health ", "decision allow", "decision deny", "decision allow", "decision deny"}
	if !slices.Equal(kinds, want) {
		t.Fatalf("audit log %q, want %q", kinds, want)
	}
	wantResets(t, l.events())
}

// wantResets checks the resets of the TPM that a boot, its renewal and the next boot have on record: the first two
// are between the same two resets.
func wantResets(t *testing.T, events []store.Event) {
	t.Helper()
	var resets []int
	for _, e := range events {
		if e.Kind == "decision" && e.Verdict == "allow" {
			n, err := strconv.Atoi(e.Detail["resets"])
			if err != nil {
				t.Error(err)
			}
			resets = append(resets, n)
		}
	}
	if len(resets) != 3 || resets[1] != resets[0] || resets[2] != resets[0]+1 {
		t.Errorf("the TPM was reset %v times", resets)
	}
}

func denied(err error, code wire.Code) bool {
	var d *device.Denied
	return errors.As(err, &d) && d.Code == code
}

func TestDenialIsRecordedAndReleasesNothing(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	_, err := m.Boot(t.Context(), m.measure(t, "evil"))
	var d *device.Denied
	if !errors.As(err, &d) || d.Code != wire.CodeImage || d.Decision == "" || len(d.Reasons) != 1 {
		t.Fatalf("Boot: %v, want a denial that names its record and its reason", err)
	}
	events := l.events()
	last := events[len(events)-1]
	if last.Decision != d.Decision || last.Verdict != "deny" || last.Stage != "image" {
		t.Errorf("audit record %+v", last)
	}
	dev, err := l.store.Device(t.Context(), id)
	if err != nil || dev.Attempt.Verdict != "deny" || !dev.Confirmed.Time.IsZero() {
		t.Errorf("device %+v, %v", dev, err)
	}
}

func TestUnknownAndBlockedDevices(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	ctx := t.Context()
	logs := m.measure(t, "good")
	if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeDevice) {
		t.Fatalf("unknown device: %v", err)
	}
	if got := l.server.strangers.list(); len(got) != 1 {
		t.Errorf("strangers %+v", got)
	}
	// A wrong token admits no one, the right one to the waiting list only.
	m.JoinToken = []byte("wrong")
	token := store.Token{Name: "batch", Secret: []byte("right"), Expires: time.Now().Add(time.Hour), Uses: 1}
	if err := l.store.AddToken(ctx, token, store.Event{Kind: "token"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeDevice) {
		t.Fatalf("wrong token: %v", err)
	}
	id, err := m.EK(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.store.Device(ctx, id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the wrong token admitted the device: %v", err)
	}
	m.JoinToken = []byte("right")
	for range 2 {
		if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeDevice) {
			t.Fatalf("waiting device: %v", err)
		}
	}
	if d, err := l.store.Device(ctx, id); err != nil || d.State != store.Pending {
		t.Fatalf("joined device: %+v, %v", d, err)
	}
	if err := l.store.SetState(ctx, id, store.Enrolled, store.Event{Kind: "state"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(ctx, logs); err != nil {
		t.Fatalf("after approval: %v", err)
	}
	if err := l.store.SetState(ctx, id, store.Quarantined, store.Event{Kind: "state"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeDevice) {
		t.Fatalf("quarantined device: %v", err)
	}
}

func TestReplay(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	l.enrol(m)
	tap := l.tap(m)
	r, _ := boot(t, m, "good")
	m3 := tap.sent[wire.PathEvidence]
	if status, code := l.post(l.client(), wire.PathEvidence, m3); status != http.StatusConflict || code != wire.CodeReplayed {
		t.Errorf("replayed at once: %d %s", status, code)
	}
	l.restart()
	if status, code := l.post(l.client(), wire.PathEvidence, m3); status != http.StatusConflict || code != wire.CodeReplayed {
		t.Errorf("replayed after a restart: %d %s", status, code)
	}
	l.ahead.Store(int64(wire.CookieLife + time.Minute))
	if status, code := l.post(l.client(), wire.PathEvidence, m3); status != http.StatusForbidden || code != wire.CodeExpired {
		t.Errorf("replayed after expiry: %d %s", status, code)
	}
	l.ahead.Store(0)
	// The restarted server still takes the acknowledgement, more than once.
	m.HTTP = l.client()
	for range 2 {
		if err := m.Ack(t.Context(), r); err != nil {
			t.Error(err)
		}
	}
	other := newLab(t)
	if status, code := other.post(other.client(), wire.PathEvidence, m3); status != http.StatusForbidden || code != wire.CodeCookie {
		t.Errorf("replayed at another site: %d %s", status, code)
	}
}

// stopper keeps M3 from being sent, so that the test can send it itself.
type stopper struct{ *tap }

func (s stopper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != wire.PathEvidence {
		return s.tap.RoundTrip(r)
	}
	_, err := (&tap{failing{}, s.sent}).RoundTrip(r)
	return nil, err
}

type failing struct{}

func (failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("line cut") }

// unsent makes a valid M3 that the server has not seen.
func unsent(t *testing.T, l *lab, m *machine) []byte {
	t.Helper()
	tap := l.tap(m)
	m.HTTP = &http.Client{Transport: stopper{tap}}
	if _, err := m.Boot(t.Context(), m.measure(t, "good")); !errors.Is(err, device.ErrUnreachable) {
		t.Fatalf("Boot: %v", err)
	}
	m.HTTP = l.client()
	return tap.sent[wire.PathEvidence]
}

func TestConcurrentClaim(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	l.enrol(m)
	m3 := unsent(t, l, m)
	client := l.client()
	var won, replayed atomic.Int32
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			switch status, code := l.post(client, wire.PathEvidence, m3); {
			case status == http.StatusOK:
				won.Add(1)
			case code == wire.CodeReplayed:
				replayed.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || replayed.Load() != 11 {
		t.Errorf("%d answered and %d refused as replayed, want 1 and 11", won.Load(), replayed.Load())
	}
	if n := len(l.events()); n != 2 { // enrol, decision
		t.Errorf("%d audit records, want 2", n)
	}
}
