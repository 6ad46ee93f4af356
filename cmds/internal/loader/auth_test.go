package loader

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
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

// TestCredentialsOfTarget: a TUF target names the registry of its image, and with it
// a signer of targets could name one of his own. The site config's credentials
// are shown to the registry that it names itself and to no other.
func TestCredentialsOfTarget(t *testing.T) {
	for name, c := range map[string]struct {
		theirs, boots bool // the target names another registry
	}{"the site's registry": {boots: true}, "another registry": {theirs: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.repo(1)
			home, shown := locked(t, w, "box", "opensesame")
			other, leaked := locked(t, w, "box", "opensesame")
			host := home
			if c.theirs {
				host = other
			}
			d, err := w.repository("os").Resolve(t.Context(), "stable")
			if err != nil {
				t.Fatal(err)
			}
			custom := json.RawMessage(fmt.Sprintf(`{"sealboot":{"kind":"oci","version":1,"architecture":%q,"oci":{"repository":"%s/os","digest":%q}}}`,
				runtime.GOARCH, host, d.Digest))
			r.AddArtifact("targets", "os", []byte("os\n"))
			r.Targets().Targets["os"].Custom = &custom
			r.Publish("targets", "snapshot", "timestamp")
			src := &w.conf.Sources[0]
			src.PlainHTTP, w.conf.Lab = true, true
			src.Auth = &config.Auth{Registry: home, Username: "box", Password: "opensesame"}
			outcome, err := w.boot()
			if (outcome == flow.Kexec) != c.boots {
				t.Errorf("boot: %v, %v\n%s", outcome, err, &w.out)
			}
			if (shown.Load() > 0) != c.boots || leaked.Load() > 0 {
				t.Errorf("shown %d times to the registry and %d times to another", shown.Load(), leaked.Load())
			}
			if told := strings.Contains(w.console(), "without credentials"); told != c.theirs {
				t.Errorf("the console says that none were shown: %v\n%s", told, &w.out)
			}
		})
	}
}
