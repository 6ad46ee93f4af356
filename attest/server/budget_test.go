package server

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/sealboot/sealboot/attest/wire"
)

// from sends size bytes as evidence, or as what path takes, from an address, and returns the status.
func (l *lab) from(remote, path string, size int) int {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(make([]byte, size)))
	r.RemoteAddr = remote
	r.Header.Set("Content-Type", wire.ContentType)
	w := httptest.NewRecorder()
	l.server.Devices().ServeHTTP(w, r)
	return w.Code
}

// TestBodiesAreBounded fills the memory for evidence with that of others.
func TestBodiesAreBounded(t *testing.T) {
	l := newBareLab(t)
	judged := func(code int) bool { return code == http.StatusForbidden || code == http.StatusBadRequest }
	const here, there = "192.0.2.1:1", "198.51.100.1:1"
	b := &l.server.bodies
	before := int64(maxBodies - 1<<20)
	b.add(netip.Prefix{}, before)
	if got := l.from(here, wire.PathEvidence, 2<<20); got != http.StatusServiceUnavailable {
		t.Errorf("with no room: %d, want 503", got)
	}
	if got := l.from(here, wire.PathEvidence, 1<<20); !judged(got) {
		t.Errorf("with room: %d, want a refusal of its content", got)
	}
	if b.used != before || len(b.by) != 1 {
		t.Errorf("%d bytes are still counted, of %d networks", b.used-before, len(b.by)-1)
	}
	b.add(netip.Prefix{}, -before)

	// One address that stalls with all that it may send harms itself alone.
	stalled := b.reader(io.LimitReader(zeros{}, maxNetworkBodies), network(here))
	if _, err := io.Copy(io.Discard, stalled); err != nil {
		t.Fatal(err)
	}
	if got := l.from(here, wire.PathEvidence, 1<<10); got != http.StatusServiceUnavailable {
		t.Errorf("more evidence from there: %d, want 503", got)
	}
	if got := l.from(there, wire.PathEvidence, 4<<20); !judged(got) {
		t.Errorf("evidence from elsewhere: %d, want a refusal of its content", got)
	}
	if got := l.from(here, wire.PathHello, 1<<10); !judged(got) {
		t.Errorf("a hello: %d, want a refusal of its content", got)
	}
	stalled.release()
	if b.used != 0 || len(b.by) != 0 {
		t.Errorf("%d bytes are still counted, of %d networks", b.used, len(b.by))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLargeMessagesCostMore sends as much as an address may at once, in large messages and in small ones.
func TestLargeMessagesCostMore(t *testing.T) {
	count := func(path string, size int) int {
		l := newLabWith(t, func(s *Server) { s.limiter = newNetworkLimiter(0.001, 200) })
		for n := 0; ; n++ {
			if l.from("192.0.2.1:1", path, size) == http.StatusTooManyRequests {
				return n
			}
		}
	}
	if large, small := count(wire.PathEvidence, wire.MaxEvidence), count(wire.PathHello, 200); large > 4 || small < 190 {
		t.Errorf("%d large messages and %d small ones; want a few and 200", large, small)
	}
}
