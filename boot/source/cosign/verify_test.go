package cosign_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func image(t testing.TB) digest.Digest {
	return digest.Digest(strings.TrimSpace(string(file(t, "image.txt"))))
}

func keys(t testing.TB, names ...string) (ks []cosign.Key) {
	t.Helper()
	for _, n := range names {
		k, err := cosign.ParseKey(file(t, n+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		ks = append(ks, k)
	}
	return ks
}

// TestVerify has every signature of testdata checked by every key.
func TestVerify(t *testing.T) {
	names := []string{"ecdsa", "ed25519", "ed25519ph", "p384", "p521", "rsa", "other"}
	payload, img := file(t, "payload.json"), image(t)
	for _, by := range names {
		for _, with := range names {
			k := keys(t, with)
			got, err := cosign.VerifySimple(payload, string(file(t, by+".sig")), cosign.Demand{Image: img}, k)
			if ok := err == nil && got.ID() == k[0].ID(); ok != (by == with) {
				t.Errorf("classic signature by %s, checked with %s: %v", by, with, err)
			}
			found, err := cosign.VerifyBundle(file(t, by+".bundle.json"), cosign.Demand{Image: img}, k)
			if ok := err == nil && len(found) == 1; ok != (by == with) {
				t.Errorf("bundle by %s, checked with %s: %v", by, with, err)
			}
		}
	}
}

// TestOlderHash: cosign before version 3 hashed with SHA-256 whatever the curve.
func TestOlderHash(t *testing.T) {
	for _, name := range []string{"p384", "p521"} {
		sig := string(file(t, name+"-sha256.sig"))
		if _, err := cosign.VerifySimple(file(t, "payload.json"), sig, cosign.Demand{Image: image(t)}, keys(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := cosign.VerifySimple(file(t, "payload.json"), sig, cosign.Demand{Image: image(t)}, keys(t, "ecdsa")); !errors.Is(err, cosign.ErrSignature) {
			t.Errorf("%s, checked with another key: %v", name, err)
		}
	}
}

// TestVerifyRefuses has signatures that are valid, and not of this image.
func TestVerifyRefuses(t *testing.T) {
	ks, img := keys(t, "ecdsa"), image(t)
	other := digest.FromString("other")
	if _, err := cosign.VerifySimple(file(t, "payload.json"), string(file(t, "ecdsa.sig")), cosign.Demand{Image: other}, ks); !errors.Is(err, cosign.ErrSignature) {
		t.Errorf("classic, another image: %v", err)
	}
	changed := []byte(strings.Replace(string(file(t, "payload.json")), "registry.example", "registry.exampla", 1))
	if _, err := cosign.VerifySimple(changed, string(file(t, "ecdsa.sig")), cosign.Demand{Image: img}, ks); !errors.Is(err, cosign.ErrSignature) {
		t.Errorf("classic, changed payload: %v", err)
	}
	if _, err := cosign.VerifyBundle(file(t, "ecdsa.bundle.json"), cosign.Demand{Image: other}, ks); !errors.Is(err, cosign.ErrSignature) {
		t.Errorf("bundle, another image: %v", err)
	}
	for _, name := range []string{"attestation", "otherimage"} {
		if _, err := cosign.VerifyBundle(file(t, name+".bundle.json"), cosign.Demand{Image: img}, ks); !errors.Is(err, cosign.ErrSignature) {
			t.Errorf("bundle %s: %v", name, err)
		}
	}
}

// repo is a repository in memory.
type repo struct {
	manifests map[string][]byte // by tag and by digest
	blobs     map[digest.Digest][]byte
	referrers []ocispec.Descriptor
	err       error // of Referrers
}

func (r *repo) Manifest(_ context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	b, ok := r.manifests[ref]
	if !ok {
		return ocispec.Descriptor{}, nil, oci.ErrNotFound
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}, b, nil
}

func (r *repo) Referrers(_ context.Context, _ ocispec.Descriptor, kind string) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		for _, d := range r.referrers {
			if d.ArtifactType == kind && !yield(d, nil) {
				return
			}
		}
		if r.err != nil {
			yield(ocispec.Descriptor{}, r.err)
		}
	}
}

func (r *repo) Bytes(_ context.Context, d ocispec.Descriptor, _ int64) ([]byte, error) {
	return r.blobs[d.Digest], nil
}

func (r *repo) put(tag string, layers ...ocispec.Descriptor) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.DescriptorEmptyJSON, Layers: layers}
	b, _ := json.Marshal(m)
	if tag == "" {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: cosign.BundleType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		r.referrers = append(r.referrers, d)
		tag = d.Digest.String()
	}
	r.manifests[tag] = b
}

func (r *repo) layer(mediaType string, b []byte, annotations map[string]string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), Annotations: annotations}
	r.blobs[d.Digest] = b
	return d
}

// signed returns a repository in which some have signed in each of the forms.
func signed(t *testing.T, classic, bundles []string) *repo {
	r := &repo{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
	var layers []ocispec.Descriptor
	for _, name := range classic {
		layers = append(layers, r.layer(cosign.SimpleSigningType, file(t, "payload.json"),
			map[string]string{cosign.SignatureAnnotation: string(file(t, name+".sig"))}))
	}
	if layers != nil {
		r.put("sha256-"+image(t).Encoded()+".sig", layers...)
	}
	for _, name := range bundles {
		r.put("", r.layer(cosign.BundleType, file(t, name+".bundle.json"), nil))
	}
	return r
}

func TestPolicy(t *testing.T) {
	all := []string{"ecdsa", "ed25519", "rsa"}
	tests := []struct {
		name             string
		classic, bundles []string
		keys             []string
		threshold        int
		want             int // keys that admit; 0 means refused
	}{
		{"unsigned", nil, nil, all, 1, 0},
		{"classic", []string{"ecdsa"}, nil, all, 1, 1},
		{"bundle", nil, []string{"rsa"}, all, 1, 1},
		{"one of two", []string{"ecdsa"}, nil, all, 2, 0},
		{"the same key in both forms", []string{"ecdsa", "ecdsa"}, []string{"ecdsa"}, all, 2, 0},
		{"two, one in each form", []string{"ecdsa"}, []string{"ed25519"}, all, 2, 2},
		{"all by default", []string{"ecdsa"}, []string{"ed25519", "rsa"}, all, 0, 3},
		{"all by default, one missing", []string{"ecdsa"}, []string{"ed25519"}, all, 0, 0},
		{"a stranger", []string{"other"}, []string{"other"}, all, 1, 0},
		{"a stranger first", []string{"other", "rsa"}, nil, all, 1, 1},
		{"an attestation is no signature", nil, []string{"attestation", "otherimage"}, all, 1, 0},
		{"more than there are keys", all, all, all, 4, 0},
		{"the same key listed twice", all, all, []string{"ecdsa", "ecdsa"}, 2, 0},
		{"the same key listed twice, and another", []string{"ecdsa", "rsa"}, nil, []string{"ecdsa", "ecdsa", "rsa"}, 2, 2},
		{"no keys", all, all, nil, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := cosign.Policy{Keys: keys(t, tt.keys...), Threshold: tt.threshold}
			got, err := p.Admit(t.Context(), signed(t, tt.classic, tt.bundles), ocispec.Descriptor{Digest: image(t)})
			if len(got) != tt.want || !slices.IsSorted(got) {
				t.Errorf("admitted by %q, want %d keys; error %v", got, tt.want, err)
			}
			if tt.want == 0 && !errors.Is(err, oci.ErrNotAdmitted) {
				t.Errorf("error is %v, want %v", err, oci.ErrNotAdmitted)
			}
		})
	}
}

// TestPolicyUnanswered tells a repository that refuses from one that fails.
func TestPolicyUnanswered(t *testing.T) {
	r := signed(t, []string{"ecdsa"}, nil)
	r.err = fmt.Errorf("connection reset")
	p := cosign.Policy{Keys: keys(t, "ecdsa", "rsa")}
	if _, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: image(t)}); err == nil || errors.Is(err, oci.ErrNotAdmitted) {
		t.Errorf("error is %v, want one that is not final", err)
	}
	p.Threshold = 1
	if _, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: image(t)}); err != nil {
		t.Errorf("enough in the other form: %v", err)
	}
}

// FuzzVerifyBundle: nothing but the seeds is ever accepted.
func FuzzVerifyBundle(f *testing.F) {
	names := []string{"ecdsa", "ed25519", "rsa"}
	for _, n := range append(names, "attestation", "otherimage") {
		f.Add(file(f, n+".bundle.json"))
	}
	ks, img := keys(f, names...), image(f)
	payloads := map[string]bool{}
	payloadOf := func(b []byte) string {
		var v struct {
			Envelope struct {
				Payload []byte `json:"payload"`
			} `json:"dsseEnvelope"`
		}
		_ = json.Unmarshal(b, &v)
		return string(v.Envelope.Payload)
	}
	for _, n := range names {
		payloads[payloadOf(file(f, n+".bundle.json"))] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := cosign.VerifyBundle(b, cosign.Demand{Image: img}, ks); err == nil && !payloads[payloadOf(b)] {
			t.Errorf("accepted a payload that nobody signed: %q", payloadOf(b))
		}
	})
}
