package server

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sealboot/sealboot/attest/wire"
)

// TestBodiesAreBounded fills the memory for bodies with those of others.
func TestBodiesAreBounded(t *testing.T) {
	l := newBareLab(t)
	send := func(size int) int {
		r := httptest.NewRequest(http.MethodPost, wire.PathEvidence, bytes.NewReader(make([]byte, size)))
		r.Header.Set("Content-Type", wire.ContentType)
		w := httptest.NewRecorder()
		l.server.Devices().ServeHTTP(w, r)
		return w.Code
	}
	l.server.bodies.used.Store(maxBodies - 1<<20)
	if got := send(2 << 20); got != http.StatusServiceUnavailable {
		t.Errorf("with no room: %d, want 503", got)
	}
	if got := send(1 << 20); got != http.StatusForbidden && got != http.StatusBadRequest {
		t.Errorf("with room: %d, want a refusal of its content", got)
	}
	if got := l.server.bodies.used.Load(); got != maxBodies-1<<20 {
		t.Errorf("%d bytes are still counted", got-(maxBodies-1<<20))
	}
}
