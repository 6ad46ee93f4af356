package loader

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: when a registry or a TUF repository redirects to a signed URL
// and that fails, neither the console nor the report at attestd shows how it was
// signed.
func TestSignedRedirects(t *testing.T) {
	w := newWorld(t)
	to, err := url.Parse(w.registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	oci := w.conf.Sources
	w.repo(1)
	root := w.conf.Sources[0].Root
	registry := httputil.NewSingleHostReverseProxy(to)
	for _, what := range []string{"manifests", "metadata"} {
		some := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/"+what+"/") || r.URL.RawQuery != "" }
		for name, h := range redacttest.Redirects(t, registry, some) {
			t.Run(what+", "+name, func(t *testing.T) {
				s := httptest.NewServer(h)
				defer s.Close()
				w.conf.Sources = slices.Clone(oci)
				w.conf.Sources[0].Ref = strings.TrimPrefix(s.URL, "http://") + "/os:stable"
				if what == "metadata" {
					w.conf.Sources = []config.Source{{Type: config.SourceTUF, Root: root, MetadataURL: s.URL + "/metadata", Target: "os"}}
				}
				w.reset()
				outcome, err := w.boot()
				if outcome == flow.Kexec {
					t.Error("it booted")
				}
				redacttest.Check(t, err)
				redacttest.CheckText(t, w.console())
				devices, derr := w.store.Devices(t.Context(), "", 1)
				if derr != nil {
					t.Fatal(derr)
				}
				redacttest.CheckText(t, devices[0].Attempt.Reason)
				if devices[0].Attempt.Reason == "" {
					t.Error("attestd has no report")
				}
			})
		}
	}
}
