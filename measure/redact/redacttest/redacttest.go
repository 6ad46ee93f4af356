// Package redacttest has servers that redirect to URLs with a secret in them, so that
// a client can be tested for what it says when that leads nowhere.
package redacttest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const secret = "hushhush"

// Redirects are handlers by what is wrong with where they redirect to. The
// requests that some accepts are redirected; others go to next.
func Redirects(t testing.TB, next http.Handler, some func(*http.Request) bool) map[string]http.Handler {
	t.Helper()
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>"))
	}))
	t.Cleanup(refuses.Close)
	t.Cleanup(garbage.Close)
	handlers := map[string]http.Handler{}
	for name, location := range map[string]string{
		"no server":      "http://127.0.0.1:1/x?sig=" + secret,
		"forbidden":      refuses.URL + "/x?sig=" + secret,
		"garbage":        garbage.URL + "/x?sig=" + secret,
		"a password":     "http://" + secret + ":" + secret + "@127.0.0.1:1/x",
		"malformed":      "http://127.0.0.1:1/%zz?sig=" + secret + " " + secret,
		"another scheme": "gopher://127.0.0.1:1/x?sig=" + secret,
		"a circle":       "?sig=" + secret,
	} {
		handlers[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !some(r) {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
	}
	return handlers
}

// All redirects every request.
func All(*http.Request) bool { return true }

// Check wants err to be there and to keep the secret.
func Check(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	CheckText(t, err.Error())
}

// CheckText wants a text to keep the secret.
func CheckText(t testing.TB, text string) {
	t.Helper()
	if strings.Contains(text, secret) {
		t.Errorf("the secret of a URL is in what it says: %s", text)
	}
}
