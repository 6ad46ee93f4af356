package loader

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/oci/ocitest"
)

// locked stands in front of the world's registry and wants a password. It counts
// the requests that had one.
func locked(t *testing.T, w *world, user, password string) (host string, shown *atomic.Int64) {
	t.Helper()
	to, err := url.Parse(w.registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	shown = new(atomic.Int64)
	door := ocitest.Locked(httputil.NewSingleHostReverseProxy(to), user, password)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			shown.Add(1)
		}
		door.ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), shown
}

// TestRegistryAuth: the site config's credentials open its registry; they are
// not shown to the mirrors, and not on the console.
func TestRegistryAuth(t *testing.T) {
	for _, c := range []struct {
		password string
		boots    bool
	}{{"opensesame", true}, {"closesesame", false}} {
		w := newWorld(t)
		home, shown := locked(t, w, "box", "opensesame")
		mirror, leaked := locked(t, w, "box", "opensesame")
		src := &w.conf.Sources[0]
		src.Ref, src.Mirrors = home+"/os:stable", []string{strings.Replace(mirror, "127.0.0.1", "localhost", 1) + "/os"}
		src.Auth = &config.Auth{Username: "box", Password: c.password}
		w.conf.Lab = true
		outcome, err := w.boot()
		if (outcome == flow.Kexec) != c.boots {
			t.Errorf("password %s: %v, %v\n%s", c.password, outcome, err, &w.out)
		}
		if shown.Load() == 0 || leaked.Load() > 0 {
			t.Errorf("password %s: shown %d times to the registry and %d times to the mirror", c.password, shown.Load(), leaked.Load())
		}
		if strings.Contains(w.out.String(), c.password) || err != nil && strings.Contains(err.Error(), c.password) {
			t.Errorf("the console shows the password:\n%s", &w.out)
		}
	}
}
