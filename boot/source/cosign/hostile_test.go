package cosign_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/boottest/faultproxy"
	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// hostile is a registry that serves whatever it was given, under whatever name.
type hostile struct {
	files     map[string][]byte // by the last part of the path
	endless   string            // the name that is served without end
	referrers []ocispec.Descriptor
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	b, ok := h.files[name]
	switch {
	case strings.Contains(r.URL.Path, "/referrers/"):
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_ = json.NewEncoder(w).Encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: h.referrers})
	case name == h.endless:
		faultproxy.Endless(w, r, nil)
	case !ok:
		http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`, http.StatusNotFound)
	default:
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		}
		_, _ = w.Write(b)
	}
}

// blob puts content under its digest, or under that of something else.
func (h *hostile) blob(mediaType string, content []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	h.files[d.Digest.String()] = content
	return d
}

// refer adds a referrer with these layers.
func (h *hostile) refer(layers ...ocispec.Descriptor) ocispec.Descriptor {
	raw, _ := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: cosign.BundleType, Config: ocispec.DescriptorEmptyJSON, Layers: layers})
	d := h.blob(ocispec.MediaTypeImageManifest, raw)
	d.ArtifactType = cosign.BundleType
	h.referrers = append(h.referrers, d)
	return d
}

// spaced returns the same JSON in n bytes more.
func spaced(b []byte, n int) []byte { return slices.Concat(b, bytes.Repeat([]byte(" "), n)) }

// TestAttestationsHideNothing: attestations have the artifact type of signatures,
// and there can be far more of them.
func TestAttestationsHideNothing(t *testing.T) {
	says := func(d *ocispec.Descriptor, predicate string) {
		d.Annotations = map[string]string{cosign.PredicateAnnotation: predicate}
	}
	for name, tt := range map[string]struct {
		attestations int
		annotate     bool
		requests     int // at most, to find the signature behind all of them
	}{
		"many":                           {1000, true, 4},
		"a registry without annotations": {400, false, 805},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hostile{files: map[string][]byte{}}
			for i := range tt.attestations {
				h.refer(h.blob(cosign.BundleType, spaced(file(t, "attestation.bundle.json"), i)))
				if tt.annotate {
					says(&h.referrers[i], "https://spdx.dev/Document")
				}
			}
			h.refer(h.blob(cosign.BundleType, file(t, "ecdsa.bundle.json")))
			if tt.annotate {
				says(&h.referrers[tt.attestations], cosign.PredicateType)
			}
			var requests atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				h.ServeHTTP(w, r)
			}))
			defer s.Close()
			r, err := oci.NewRemote(strings.TrimPrefix(s.URL, "http://")+"/os:v1", oci.Connection{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image(t), Size: 100}
			if _, err := (cosign.Policy{Keys: keys(t, "ecdsa")}).Admit(t.Context(), r, desc); err != nil {
				t.Error(err)
			}
			if n := int(requests.Load()); n > tt.requests {
				t.Errorf("%d requests, want %d at most", n, tt.requests)
			}
		})
	}
}

// TestJunkHidesNoOtherForm: anyone who may push referrers, and no tags, cannot use up
// what is spent on the search for the tag.
func TestJunkHidesNoOtherForm(t *testing.T) {
	r := signed(t, []string{"ecdsa"}, nil)
	for i := range 600 {
		r.put("", r.layer(cosign.BundleType, spaced([]byte("{}"), i), nil))
	}
	if _, err := (cosign.Policy{Keys: keys(t, "ecdsa")}).Admit(t.Context(), r, ocispec.Descriptor{Digest: image(t)}); err != nil {
		t.Error(err)
	}
}

// TestPagesHideNothing: a list comes in pages, and what is on one of them counts
// whatever becomes of the next.
func TestPagesHideNothing(t *testing.T) {
	h := &hostile{files: map[string][]byte{}}
	h.refer(h.blob(cosign.BundleType, file(t, "ecdsa.bundle.json")))
	const again = `{"schemaVersion":2,"manifests":[]}`
	for name, second := range map[string]string{
		"is broken":            `{"schemaVersion":2,"manifests":[{"digest":"x"}]}`,
		"has too many entries": `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", 1<<17) + `{}]}`,
		"never ends":           `{"schemaVersion":2,"manifests":[` + strings.Repeat(" ", 5<<20),
		"leads to itself":      again,
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/referrers/") || r.URL.Query().Get("page") == "" {
					w.Header().Set("Link", `<`+r.URL.Path+`?page=2>; rel="next"`)
					h.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
				if second == again {
					w.Header().Set("Link", `<`+r.URL.Path+`?page=2>; rel="next"`)
				}
				_, _ = w.Write([]byte(second))
			}))
			defer s.Close()
			r, err := oci.NewRemote(strings.TrimPrefix(s.URL, "http://")+"/os:v1", oci.Connection{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image(t), Size: 100}
			if _, err := (cosign.Policy{Keys: keys(t, "ecdsa")}).Admit(t.Context(), r, desc); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHostile: what a hostile registry serves is refused with the reason, after
// a bounded number of bytes, and what it serves next to that still counts.
func TestHostile(t *testing.T) {
	bundle := func(payload string) []byte {
		return fmt.Appendf(nil, `{"mediaType":%q,"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`, cosign.BundleType, payload)
	}
	good := file(t, "ecdsa.bundle.json")
	tests := []struct {
		name string
		make func(h *hostile)
		says string
	}{
		{"nothing", func(*hostile) {}, "0 of 1 signatures needed, by 1 pinned keys"},
		{"huge bundle", func(h *hostile) {
			h.refer(h.blob(cosign.BundleType, append(bytes.Repeat([]byte(" "), 2<<20), good...)))
		}, "more than 1048576"},
		{"bundle without end", func(h *hostile) {
			d := h.blob(cosign.BundleType, good)
			h.endless = d.Digest.String()
			h.refer(d)
		}, ""},
		{"manifest without end", func(h *hostile) {
			d := h.refer(h.blob(cosign.BundleType, good))
			h.endless = d.Digest.String()
		}, ""},
		{"deep JSON", func(h *hostile) { h.refer(h.blob(cosign.BundleType, bytes.Repeat([]byte(`{"a":`), 100_000))) }, "exceeded max depth"},
		{"deep arrays", func(h *hostile) { h.refer(h.blob(cosign.BundleType, bytes.Repeat([]byte(`[`), 1_000_000))) }, "exceeded max depth"},
		{"not signed", func(h *hostile) { h.refer(h.blob(cosign.BundleType, bundle("e30="))) }, "none by a pinned key"},
		{"signed by a stranger", func(h *hostile) { h.refer(h.blob(cosign.BundleType, file(t, "other.bundle.json"))) }, "none by a pinned key"},
		{"another image's, of another repository", func(h *hostile) { h.refer(h.blob(cosign.BundleType, file(t, "otherimage.bundle.json"))) }, "the statement is about sha256:"},
		{"another statement", func(h *hostile) { h.refer(h.blob(cosign.BundleType, file(t, "attestation.bundle.json"))) }, "the statement is a "},
		{"another bundle's content", func(h *hostile) {
			d := h.blob(cosign.BundleType, file(t, "other.bundle.json"))
			h.files[d.Digest.String()] = append(good, bytes.Repeat([]byte(" "), max(0, int(d.Size)-len(good)))...)[:d.Size]
			h.refer(d)
		}, "mismatch"},
		{"another referrer's content", func(h *hostile) {
			d := h.refer(h.blob(cosign.BundleType, good))
			h.files[d.Digest.String()] = bytes.Replace(h.files[d.Digest.String()], []byte("schemaVersion"), []byte("schemaversion"), 1)
		}, "mismatch"},
		{"a referrer in another repository", func(h *hostile) {
			d := h.refer(h.blob(cosign.BundleType, good))
			delete(h.files, d.Digest.String())
		}, "not found"},
		{"two bundles in one", func(h *hostile) { d := h.blob(cosign.BundleType, good); h.refer(d, d) }, "does not hold one bundle"},
		{"more than are looked at", func(h *hostile) {
			for i := range 64 {
				h.refer(h.blob(cosign.BundleType, spaced(file(t, "other.bundle.json"), i)))
			}
			h.refer(h.blob(cosign.BundleType, good))
		}, "only 64 signatures were verified"},
		{"more than is read", func(h *hostile) {
			for i := range 9 {
				h.refer(h.blob(cosign.BundleType, spaced([]byte("{}"), 1000_000+i)))
			}
			h.refer(h.blob(cosign.BundleType, good))
		}, "the search ended early: after 17 requests"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := &hostile{files: map[string][]byte{}}
			tt.make(h)
			proxy := &faultproxy.Proxy{Next: h}
			s := httptest.NewServer(proxy)
			defer s.Close()
			r, err := oci.NewRemote(strings.TrimPrefix(s.URL, "http://")+"/os:v1", oci.Connection{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image(t), Size: 100}
			p := cosign.Policy{Keys: keys(t, "ecdsa")}
			if got, err := p.Admit(t.Context(), r, desc); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("admitted by %q, error %v; want %q in it", got, err, tt.says)
			}
			if proxy.Sent() > 16<<20 {
				t.Errorf("%d bytes were taken", proxy.Sent())
			}
			if strings.HasPrefix(tt.name, "more than") {
				return
			}
			h.refer(h.blob(cosign.BundleType, append(good, '\n')))
			if _, err := p.Admit(t.Context(), r, desc); err != nil {
				t.Errorf("with a good one beside it: %v", err)
			}
		})
	}
}
