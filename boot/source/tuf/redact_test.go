package tuf_test

import (
	"crypto/sha256"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: what a repository in a bucket redirects to is in no error.
func TestSignedRedirects(t *testing.T) {
	sum := sha256.Sum256(nil)
	want := tuf.Want{Size: 4, SHA256: sum[:]}
	for name, h := range redacttest.Redirects(t, nil, redacttest.All) {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(h)
			defer s.Close()
			_, err := tuf.Web{URL: s.URL}.Metadata(t.Context(), "timestamp.json", 2)
			redacttest.Check(t, err)
			_, err = tuf.Streamed{
				URL: s.URL, Resumes: 1,
				Create: func() (*os.File, error) { return os.Create(filepath.Join(t.TempDir(), "target")) },
			}.Target(t.Context(), "os", want)
			redacttest.Check(t, err)
			f, err := tuf.NewFetched([]string{s.URL}, nil, fetch.Options{MinBackoff: time.Microsecond, MaxBackoff: time.Microsecond})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, err = f.Target(t.Context(), "os", want)
			redacttest.Check(t, err)
		})
	}
}
