package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

const joinToken = "delivery-of-spring"

// joining is a site where one device may still join, and trusts the maker of genuine's TPM.
func joining(t *testing.T, endorsement string) (l *lab, genuine, software *machine) {
	t.Helper()
	endorsed := tpmtest.Start(t, tpmtest.Options{Identity: 1})
	var roots []byte
	if endorsement == site.EndorsedByCertificate {
		roots = endorsed.CA
	}
	l = newSite(t, endorsement, roots, func(s *Server) { s.appraisers.parse = admitAll })
	token := store.Token{Name: "spring", Secret: []byte(joinToken), Expires: time.Now().Add(time.Hour), Uses: 1}
	if err := l.store.AddToken(t.Context(), token, store.Event{Kind: "token"}); err != nil {
		t.Fatal(err)
	}
	genuine = &machine{tpm: endorsed}
	software = &machine{tpm: tpmtest.Start(t, tpmtest.Options{EK: tpmtest.NoEK, Identity: 2})}
	for _, m := range []*machine{genuine, software} {
		m.Client = l.clientFor(m)
		m.JoinToken = []byte(joinToken)
	}
	return l, genuine, software
}

// TestTokenIsForEndorsedKeys: who has a token, which is in every loader image, can make any number of keys in
// software. At a site that trusts TPM makers none of them is put on the waiting list or takes a use of the token, also
// not with the certificate of a genuine TPM, which is public.
func TestTokenIsForEndorsedKeys(t *testing.T) {
	l, genuine, software := joining(t, site.EndorsedByCertificate)
	ctx := t.Context()
	if _, err := software.Boot(ctx, software.measure(t, "good")); !denied(err, wire.CodeEK) {
		t.Errorf("a key that no maker vouches for: %v; want a denial for the EK", err)
	}

	// The same key under a certificate that is not its own.
	tap := l.tap(software)
	software.Boot(ctx, software.measure(t, "good")) //nolint:errcheck // for its M1
	request, device, err := wire.ParseRequest(tap.sent[wire.PathChallenge])
	if err != nil || request.Join == nil {
		t.Fatal(err)
	}
	device.EKCertificate = genuine.tpm.EKCert.Raw
	m1, err := wire.NewRequest(device, []byte(joinToken))
	if err != nil {
		t.Fatal(err)
	}
	if status, code := l.post(l.client(), wire.PathChallenge, m1); status != http.StatusForbidden || code != wire.CodeEK {
		t.Errorf("under another's certificate: %d %s; want a denial for the EK", status, code)
	}
	if n, err := l.store.Count(ctx); err != nil || n[store.Pending] != 0 {
		t.Errorf("on the waiting list: %v, %v; want none", n, err)
	}
	if tokens, err := l.store.Tokens(ctx); err != nil || len(tokens) != 1 || tokens[0].Uses != 1 {
		t.Errorf("tokens left: %+v, %v; want one use", tokens, err)
	}

	if _, err := genuine.Boot(ctx, genuine.measure(t, "good")); !denied(err, wire.CodeDevice) {
		t.Errorf("a genuine TPM: %v; want it to wait", err)
	}
	if n, err := l.store.Count(ctx); err != nil || n[store.Pending] != 1 {
		t.Errorf("on the waiting list: %v, %v; want the genuine TPM", n, err)
	}
}

// TestRemovedDevice removes a machine that runs: its agent is refused at once and gets no new certificate, it is a
// stranger to the server, and what it had proven does not come back when it is let in again.
func TestRemovedDevice(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	ctx := t.Context()
	r, _ := boot(t, m, "good")
	if err := m.Ack(ctx, r); err != nil {
		t.Fatal(err)
	}
	if d, err := l.store.Device(ctx, id); err != nil || d.Confirmed.Network != "127.0.0.1/32" || d.Attempt.Network != "" {
		t.Errorf("%+v, %v; want the network of its proven boot", d, err)
	}
	h := handOver(t, r, m.cap(t))
	a := newAgent(l, m, h)
	if err := a.Once(ctx); err != nil {
		t.Fatal(err)
	}
	remove := func() {
		t.Helper()
		if err := errors.Join(l.store.SetState(ctx, id, store.Quarantined, store.Event{Kind: "state"}), l.store.Remove(ctx, id, store.Event{Kind: "remove"})); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(when string) {
		t.Helper()
		if err := a.Once(ctx); err == nil || !strings.Contains(err.Error(), "identify to attestd") {
			t.Errorf("%s: its agent: %v; want its certificate refused", when, err)
		}
		if _, err := m.Renew(ctx, device.Logs{Events: m.recorder.Log()}); !errors.Is(err, device.ErrDenied) {
			t.Errorf("%s: a renewal: %v; want a denial", when, err)
		}
	}
	remove()
	refused("removed")
	l.enrol(m)
	refused("enrolled again, before its first boot")
	remove()
	m.tpm.Reset(t)
	if _, err := m.Boot(ctx, m.measure(t, "good")); !denied(err, wire.CodeDevice) || !strings.Contains(err.Error(), "not enrolled") {
		t.Errorf("its next boot: %v; want it to be a stranger", err)
	}
	if err := m.Ack(ctx, r); err == nil {
		t.Error("the acknowledgement of a boot before is taken again")
	}
	l.enrol(m)
	if hello, err := m.Hello(ctx, id); err != nil || hello.HealthyVersion != 0 {
		t.Errorf("hello: %+v, %v; want no healthy version of before", hello, err)
	}
	m.tpm.Reset(t)
	if r, _ = boot(t, m, "good"); !r.FirstBoot {
		t.Error("the first boot since it was enrolled again is not called the first")
	}
}

// TestRemovedDeviceJoins: with a token a removed device waits again, and takes another use.
func TestRemovedDeviceJoins(t *testing.T) {
	l, m, _ := joining(t, site.EndorsedByHash)
	ctx := t.Context()
	logs := m.measure(t, "good")
	for _, want := range []string{"waits for an operator", "not enrolled"} { // one use, and none
		if _, err := m.Boot(ctx, logs); !denied(err, wire.CodeDevice) || !strings.Contains(err.Error(), want) {
			t.Fatalf("it asks: %v; want %q", err, want)
		}
		waiting, err := l.store.Devices(ctx, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range waiting {
			if err := l.store.Remove(ctx, d.ID, store.Event{Kind: "remove"}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
