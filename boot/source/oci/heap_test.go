package oci

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// TestHeap: no signature was looked at when a manifest or an index is parsed, so what it takes is bounded by its size.
func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 8 << 20, PerByte: 4}
	for _, form := range []string{
		`%s`,
		`{"schemaVersion":2,"manifests":%s}`,
		`{"schemaVersion":2,"manifests":[{"urls":%s}]}`,
		`{"schemaVersion":2,"manifests":[{"annotations":%s}]}`,
		`{"schemaVersion":2,"manifests":[],"annotations":%s}`,
		`{"schemaVersion":2,"manifests":[],"else":%s}`,
	} {
		bound.JSON(t, form, MaxManifest, func(raw []byte) { ParseIndex(ocispec.MediaTypeImageIndex, raw) })
	}
	for _, form := range []string{
		`{"schemaVersion":2,"layers":%s}`,
		`{"schemaVersion":2,"config":{"platform":{"os.features":%s}}}`,
		`{"schemaVersion":2,"subject":%s}`,
	} {
		bound.JSON(t, form, MaxManifest, func(raw []byte) { ParseManifest(ocispec.MediaTypeImageManifest, raw) })
	}
}

// TestRegistryHeap: what a registry answers is decoded by its client too: a page of referrers, say.
func TestRegistryHeap(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusNotFound, http.StatusUnauthorized} {
		list := `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", MaxManifest/3-20) + `{}]}`
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.WriteHeader(status)
			if _, err := w.Write([]byte(list)); err != nil {
				return // refused
			}
		}))
		defer server.Close()
		repo, err := NewRemote(strings.TrimPrefix(server.URL, "http://")+"/name:tag", Connection{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		defer repo.Close()
		subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
		// The server of the test allocates too.
		heaptest.Bound{Fixed: 8 << 20, PerByte: 12}.Total(t, http.StatusText(status), len(list), func() {
			for _, err := range repo.Referrers(t.Context(), subject, "") {
				if status == http.StatusOK && !errors.Is(err, ErrManifest) {
					t.Errorf("referrers: %v", err)
				}
			}
			if _, _, err := repo.Manifest(t.Context(), "tag"); status == http.StatusOK && err == nil {
				t.Error("a manifest beyond the limits")
			}
		})
	}
}

// TestCredentialsHeap: what gives out tokens is on the network, and a docker config.json may come from a medium.
func TestCredentialsHeap(t *testing.T) {
	heaptest.Bound{Fixed: 4 << 20, PerByte: 24}.JSON(t, `{"auths":%s}`, 1<<20, func(raw []byte) {
		if _, err := NewRemote("registry.example/name:tag", Connection{DockerConfig: raw}); err != nil {
			return // refused
		}
	})
	heaptest.Bound{Fixed: 16 << 20, PerByte: 4}.JSON(t, `{"token":%s}`, 4<<20, func(raw []byte) {
		var server *httptest.Server
		server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="s"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if _, err := w.Write(raw); err != nil {
				return // refused
			}
		}))
		defer server.Close()
		repo, err := NewRemote(strings.TrimPrefix(server.URL, "http://")+"/name:tag", Connection{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		defer repo.Close()
		if _, _, err := repo.Manifest(t.Context(), "tag"); err == nil {
			t.Error("a manifest without a token")
		}
	})
}
