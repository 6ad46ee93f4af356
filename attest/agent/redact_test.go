package agent

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: the OS's log does not show a signed URL that something before
// attestd redirects to.
func TestSignedRedirects(t *testing.T) {
	for name, h := range redacttest.Redirects(t, nil, redacttest.All) {
		t.Run(name, func(t *testing.T) {
			s := &attestd{Server: httptest.NewTLSServer(h)}
			defer s.Close()
			a, _ := newTestAgent(t, s, time.Now)
			redacttest.Check(t, a.Once(t.Context()))
		})
	}
}
