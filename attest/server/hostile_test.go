package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/agent/api"
	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

var paths = []string{wire.PathHello, wire.PathChallenge, wire.PathEvidence, wire.PathAck, wire.PathReport, api.PathWhoami, api.PathHealth}

// TestGarbage sends what no device sends. Every answer is a well-formed failure, and nothing is recorded.
func TestGarbage(t *testing.T) {
	l := newLab(t)
	client := l.client()
	bodies := map[string][]byte{
		"nothing": nil, "noise": []byte("\x00\xff"), "empty": []byte("{}"), "array": []byte("[]"), "null": []byte("null"),
		"deep": bytes.Repeat([]byte("["), 10_000), "cut": []byte(`{"version":1,"site":"lab`), "other site": []byte(`{"version":1,"site":"x"}`),
	}
	for _, path := range paths {
		for name, body := range bodies {
			if status, _ := l.post(client, path, body); status < 400 || status >= 500 {
				t.Errorf("%s of %s: %d", name, path, status)
			}
		}
		limit := wire.MaxMessage
		if path == wire.PathEvidence {
			limit = wire.MaxEvidence
		}
		if status, code := l.post(client, path, bytes.Repeat([]byte("x"), limit+1)); status != http.StatusRequestEntityTooLarge || code != wire.CodeMalformed {
			t.Errorf("too large for %s: %d %s", path, status, code)
		}
		resp, err := client.Get(l.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
		resp, err = client.Post(l.url+path, "text/html", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("text/html to %s: %s", path, resp.Status)
		}
	}
	if n := len(l.events()); n != 0 {
		t.Errorf("garbage left %d audit records", n)
	}
}

// TestAgentNeedsItsCertificate tries the agent's calls without one and with one of another authority.
func TestAgentNeedsItsCertificate(t *testing.T) {
	l, other := newLab(t), newLab(t)
	if status, _ := l.post(l.client(), api.PathWhoami, []byte("{}")); status != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d", status)
	}
	m := other.machine(1)
	other.enrol(m)
	r, _ := boot(t, m, "good")
	h := handOver(t, r, m.cap(t))
	h.Result.URL, h.SiteCA = l.url, l.site.CA.Pool()
	if err := newAgent(l, m, h).Once(t.Context()); err == nil {
		t.Error("an agent of another site was admitted")
	}
}

// TestNoSessionOutlivesItsKey takes everything out of an OS but the agent key, which does not leave its TPM: what TLS
// remembers of an earlier connection does not pass for the agent.
func TestNoSessionOutlivesItsKey(t *testing.T) {
	l := newLab(t)
	id := strings.Repeat("ab", 32)
	booted := store.Decision{Cookie: "c", ID: "d", Device: id, Expires: time.Now().Add(time.Minute), Allow: true, Ack: "mac"}
	if err := errors.Join(l.store.Enrol(t.Context(), store.Device{ID: id, EKs: []string{id}, State: store.Enrolled}, store.Event{}),
		l.store.Decide(t.Context(), booted), l.store.Confirm(t.Context(), booted.ID, booted.Ack)); err != nil {
		t.Fatal(err)
	}
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := l.site.CA.Agent(&key.PublicKey, id, "d")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	loot := tls.NewLRUClientSessionCache(8)
	whoami := func(certs ...tls.Certificate) int {
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			RootCAs: l.site.CA.Pool(), ClientSessionCache: loot, Certificates: certs}}
		defer tr.CloseIdleConnections()
		status, _ := l.post(&http.Client{Transport: tr}, api.PathWhoami, []byte("{}"))
		return status
	}
	if got := whoami(tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}); got != http.StatusOK {
		t.Fatalf("with the key: %d", got)
	}
	if got := whoami(); got != http.StatusUnauthorized {
		t.Errorf("without the key: %d, want 401", got)
	}
}

func TestQuarantinedAgentIsRefused(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	r, _ := boot(t, m, "good")
	if err := m.Ack(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	a := newAgent(l, m, handOver(t, r, m.cap(t)))
	if err := l.store.SetState(t.Context(), id, store.Quarantined, store.Event{Kind: "state"}); err != nil {
		t.Fatal(err)
	}
	a.Healthy = func(context.Context) error {
		t.Error("whoami was answered")
		return nil
	}
	if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "quarantined") {
		t.Errorf("Once: %v", err)
	}
}

// TestQuarantinedWhileJudged quarantines a device after attestd has looked it up and before it has decided: what an
// operator has done counts from then on, and nothing is released or claimed.
func TestQuarantinedWhileJudged(t *testing.T) {
	var l *lab
	var id string
	set := func(st store.State) {
		if err := l.store.SetState(t.Context(), id, st, store.Event{Kind: "state"}); err != nil {
			t.Error(err)
		}
	}
	var quarantine atomic.Bool
	quarantine.Store(true)
	l = newLabWith(t, func(s *Server) {
		s.appraisers.parse = func(docs []store.Document) (appraiser, error) {
			admits, err := admitAll(docs)
			return appraiseFunc(func(v *verify.Verified, d policy.Device, h policy.History) *policy.Appraisal {
				if quarantine.Load() {
					set(store.Quarantined)
				}
				return admits.Appraise(v, d, h)
			}), err
		}
	})
	m := l.machine(1)
	id = l.enrol(m)
	logs := m.measure(t, "good")
	if _, err := m.Boot(t.Context(), logs); !denied(err, wire.CodeDevice) {
		t.Errorf("Boot: %v, want a denial for the device", err)
	}
	for _, e := range l.events() {
		if e.Kind == "decision" {
			t.Errorf("after the quarantine: %+v", e)
		}
	}
	quarantine.Store(false)
	set(store.Enrolled)
	if _, err := m.Boot(t.Context(), logs); err != nil {
		t.Errorf("Boot, after the device was let in again: %v", err)
	}
}

// TestRenewalNeedsAProvenBoot: before M5 no one knows that the AK lives next to the EK.
func TestRenewalNeedsAProvenBoot(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	l.enrol(m)
	_, _ = boot(t, m, "good") // never acknowledged
	if _, err := m.Renew(t.Context(), m.cap(t)); !denied(err, wire.CodeAK) {
		t.Errorf("Renew: %v, want a denial for the AK", err)
	}
}

// TestTruncatedAndSilentClients opens connections that send half a request or nothing. They must neither
// be answered as complete nor keep the server from ending.
func TestTruncatedAndSilentClients(t *testing.T) {
	l := newLab(t)
	dial := func() net.Conn {
		c, err := tls.Dial("tcp", strings.TrimPrefix(l.url, "https://"), &tls.Config{RootCAs: l.site.CA.Pool(), ServerName: "127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	silent := dial()
	half := dial()
	fmt.Fprintf(half, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"version\":1", wire.PathHello)
	if err := half.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(half)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400")) {
		t.Errorf("truncated request: %q, %v", answer, err)
	}
	raw, err := net.Dial("tcp", strings.TrimPrefix(l.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprint(raw, "GET / HTTP/1.0\r\n\r\n") // no TLS
	if _, err := io.ReadAll(raw); err != nil {
		t.Log(err)
	}
	l.stop() // hangs if the silent client is waited for
	silent.Close()
}

// TestCertificateOfAWrongClock sets attestd's clock right after it was a year ahead: the certificate that it made
// meanwhile is valid for no one, and goes.
func TestCertificateOfAWrongClock(t *testing.T) {
	now := time.Now()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	authority, _, err := ca.Create("lab", key, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	var c certificate
	for _, at := range []time.Time{now, now.AddDate(1, 0, 0), now} {
		now = at
		got, err := c.get(authority, "127.0.0.1", now)
		if err != nil || now.Before(got.Leaf.NotBefore) || now.After(got.Leaf.NotAfter) {
			t.Errorf("at %v: valid from %v to %v, %v", now, got.Leaf.NotBefore, got.Leaf.NotAfter, err)
		}
	}
}

func TestServerTimeoutsAreSet(t *testing.T) {
	all := newBareLab(t).server.listeners(noListener{}, noListener{})
	if len(all) != 2 {
		t.Fatalf("%d listeners, want those of devices and operators", len(all))
	}
	for i, h := range all {
		s := h.server
		if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
			t.Errorf("listener %d leaves a limit open: %+v", i, s)
		}
	}
}

type noListener struct{ net.Listener }

// TestHandlersHaveADeadline: a client that waits must not wait for a store that hangs.
func TestHandlersHaveADeadline(t *testing.T) {
	s := newBareLab(t).server
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/x", strings.NewReader("{}"))
	r.Header.Set("Content-Type", wire.ContentType)
	asked := false
	s.endpoint("/x", 100, func(ctx context.Context, _ *http.Request, _ []byte) ([]byte, error) {
		asked = true
		if at, ok := ctx.Deadline(); !ok || time.Until(at) > handleTimeout {
			t.Errorf("the handler's deadline is %v, %t", at, ok)
		}
		return nil, nil
	}).ServeHTTP(httptest.NewRecorder(), r)
	if !asked {
		t.Error("the handler was not asked")
	}
}

func TestRateLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter[netip.Prefix](1, 3)
	count := func(remote string) (n int) {
		for range 10 {
			if l.allow(network(remote), now) {
				n++
			}
		}
		return n
	}
	if n := count("192.0.2.1:1"); n != 3 {
		t.Errorf("burst of %d, want 3", n)
	}
	if n := count("192.0.2.1:2"); n != 0 {
		t.Errorf("another port brought %d more", n)
	}
	if n := count("192.0.2.2:1"); n != 3 {
		t.Errorf("another address has %d, want 3", n)
	}
	if n := count("[2001:db8::1]:1") + count("[2001:db8::2]:1"); n != 3 {
		t.Errorf("one /64 has %d, want 3", n)
	}
	now = now.Add(2 * time.Second)
	if n := count("192.0.2.1:1"); n != 2 {
		t.Errorf("after two seconds %d, want 2", n)
	}
	now = now.Add(time.Hour)
	if l.sweep(now); len(l.buckets) != 0 {
		t.Errorf("%d buckets are kept for ever", len(l.buckets))
	}
	for i := range maxBuckets + 10 {
		l.allow(network(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff)), now)
	}
	if len(l.buckets) > maxBuckets+1 {
		t.Errorf("%d buckets, want at most %d", len(l.buckets), maxBuckets+1)
	}
	// Anyone who has that many networks keeps others out only as long as he goes on in all of them.
	now = now.Add(3 * time.Second)
	for range 10 {
		l.allow(network("[2001:db9::1]:1"), now)
	}
	if n := count("192.0.2.1:1"); n != 3 {
		t.Errorf("another address has %d after three seconds, want 3", n)
	}
}

func TestRateLimitedDevicesComeBack(t *testing.T) {
	l := newLabWith(t, func(s *Server) { s.limiter = newNetworkLimiter(0.001, 1) })
	client := l.client()
	l.post(client, wire.PathHello, nil)
	if status, code := l.post(client, wire.PathHello, nil); status != http.StatusTooManyRequests || code != wire.CodeUnavailable {
		t.Errorf("second request: %d %s", status, code)
	}
}

func FuzzBodies(f *testing.F) {
	for i := range paths {
		f.Add(i, []byte(`{"version":1,"site":"lab","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`))
	}
	l := newBareLab(f)
	h := l.server.Devices()
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		path := paths[uint(i)%uint(len(paths))]
		r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
		r.Header.Set("Content-Type", wire.ContentType)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusOK && (path == wire.PathChallenge || path == wire.PathEvidence || path == wire.PathAck || strings.HasPrefix(path, "/v1/agent/")) {
			t.Errorf("%s was answered: %s", path, w.Body)
		}
		if w.Code == http.StatusServiceUnavailable {
			t.Errorf("%s: an internal error: %q", path, body)
		}
		if w.Code != http.StatusOK {
			var fail wire.Failure
			if err := wire.Unmarshal(w.Body.Bytes(), &fail); err != nil {
				t.Errorf("%s: %d with body %q", path, w.Code, w.Body)
			}
		}
	})
}
