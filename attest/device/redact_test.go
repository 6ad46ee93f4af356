package device_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: the console does not show a signed URL that something before
// attestd redirects to.
func TestSignedRedirects(t *testing.T) {
	for name, h := range redacttest.Redirects(t, nil, redacttest.All) {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(h)
			defer s.Close()
			_, err := (&device.Client{HTTP: http.DefaultClient, URL: s.URL, Site: "lab"}).Hello(t.Context(), "")
			redacttest.Check(t, err)
		})
	}
}
