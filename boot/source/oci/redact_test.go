package oci_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/measure/redact/redacttest"
)

// TestSignedRedirects: wherever a registry sends a request, no error says how it
// was signed.
func TestSignedRedirects(t *testing.T) {
	layer := random(100)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}
	reg := registryWith(t, layer)
	for _, what := range []string{"manifests", "referrers", "blobs"} {
		some := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/"+what+"/") || r.URL.RawQuery != "" }
		for name, h := range redacttest.Redirects(t, reg, some) {
			t.Run(what+", "+name, func(t *testing.T) {
				s := httptest.NewServer(h)
				defer s.Close()
				r := openRemote(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true})
				switch what {
				case "manifests":
					if _, _, err := r.Manifest(t.Context(), "v1"); err != nil {
						redacttest.Check(t, err)
					}
					redacttest.Check(t, open(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true}, layer))
				case "referrers":
					for _, err := range r.Referrers(t.Context(), d, "x/y") {
						redacttest.Check(t, err)
					}
				case "blobs":
					_, err := r.Bytes(t.Context(), d, 1000)
					redacttest.Check(t, err)
					resp, err := r.Mirror().Get(t.Context(), fetch.Blob{Digest: d.Digest, Size: d.Size}, "bytes=0-9")
					if err == nil {
						resp.Body.Close()
						err = fmt.Errorf("HTTP status %d", resp.StatusCode)
					}
					redacttest.Check(t, err)
				}
			})
		}
	}
}

// TestSignedTokenService has a registry name a token service by such a URL.
func TestSignedTokenService(t *testing.T) {
	for name, h := range redacttest.Redirects(t, nil, redacttest.All) {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/token") {
					h.ServeHTTP(w, r)
					return
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer s.Close()
			r := openRemote(t, host(s)+"/os:v1", oci.Connection{PlainHTTP: true, DockerConfig: ocitest.DockerConfig(host(s), "device", "hushhush")})
			_, _, err := r.Manifest(t.Context(), "v1")
			redacttest.Check(t, err)
		})
	}
}
