package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/sealboot/sealboot/cmds/internal/cli"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: commands that talk to a registry do not print the signed URL
// that it redirects to, nor the password in that of a proxy.
func TestSignedRedirects(t *testing.T) {
	w := newShop(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	must(t, "publish", "oci:"+w.dir+"/os:1", "--kernel", w.kernel)
	fails := func(t *testing.T, args ...string) {
		t.Helper()
		code, out, diag := sealboot(args...)
		if code != cli.Failed {
			t.Errorf("sealboot %s: exit code %d", strings.Join(args, " "), code)
		}
		redacttest.CheckText(t, out+diag)
	}
	registry := ociserver.New(ocimem.New(), nil)
	some := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/os/") || r.URL.RawQuery != "" }
	for name, h := range redacttest.Redirects(t, registry, some) {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(h)
			defer s.Close()
			addr := strings.TrimPrefix(s.URL, "http://")
			fails(t, "copy", addr+"/os:1", "oci:"+t.TempDir()+":1", "--from-plain-http")
			fails(t, "copy", "oci:"+w.dir+"/os:1", addr+"/os:2", "--to-plain-http")
			fails(t, "publish", addr+"/os:2", "--plain-http", "--kernel", w.kernel)
			fails(t, "predict", "image", "--site", w.site, "--name", "os", "--plain-http", addr+"/os:1")
		})
	}
	fails(t, "copy", w.addr+"/os:1", "oci:"+t.TempDir()+":1", "--from-plain-http", "--from-proxy", "http://box:hushhush@[::1")
}
