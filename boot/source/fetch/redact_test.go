package fetch_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: what a mirror redirects to is not in the error.
func TestSignedRedirects(t *testing.T) {
	for name, h := range redacttest.Redirects(t, nil, redacttest.All) {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(h)
			defer s.Close()
			f, err := fetch.New(fetch.Options{
				Mirrors:    []fetch.Mirror{fetch.HTTP{Name: "mirror", Client: http.DefaultClient, URL: func(fetch.Blob) string { return s.URL + "/blob" }}},
				MinBackoff: time.Microsecond, MaxBackoff: time.Microsecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, err = f.Blob(t.Context(), blobOf(content(1000)))
			redacttest.Check(t, err)
		})
	}
}
