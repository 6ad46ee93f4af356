package loader

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	quiet := func(s *httptest.Server) *httptest.Server {
		t.Cleanup(s.Close)
		return s
	}
	withTLS := quiet(httptest.NewTLSServer(http.NotFoundHandler()))
	without := quiet(httptest.NewServer(http.NotFoundHandler()))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	get := func(url string) error {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for _, c := range []struct {
		err  error
		says string
	}{
		{get(withTLS.URL), "name its CA with --ca FILE"},
		{get(strings.Replace(without.URL, "http:", "https:", 1)), "--plain-http"},
		{get(gone.URL), "is the server running, and this its port?"},
		{errors.New("else"), "else"},
	} {
		if got := Hint(c.err, "--ca", "--plain-http"); got == nil || !errors.Is(got, c.err) || !strings.HasSuffix(got.Error(), c.says) {
			t.Errorf("Hint(%v) = %v; want %q at its end", c.err, got, c.says)
		}
	}
	if Hint(nil, "--ca", "--plain-http") != nil {
		t.Error("a hint without an error")
	}
}
