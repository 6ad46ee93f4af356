package cosign_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// TestCosignsOwn has signatures that cosign itself has made.
func TestCosignsOwn(t *testing.T) {
	first, second := "cosign/first", "cosign/second"
	for _, tt := range []struct {
		name      string
		image     string
		by, keys  []string
		threshold int
		want      int // keys that admit; 0 means refused
	}{
		{"one", "image", []string{first}, []string{first}, 1, 1},
		{"one of two", "image", []string{first}, []string{second, first}, 1, 1},
		{"one is not two", "image", []string{first}, []string{second, first}, 2, 0},
		{"two signatures by one key are not two", "image", []string{first, "cosign/again"}, []string{second, first}, 2, 0},
		{"another key", "image", []string{first}, []string{second}, 1, 0},
		{"with an entry in a log", "logged", []string{"cosign/logged"}, []string{first, second}, 1, 1},
		{"of another image", "logged", []string{first, "cosign/again"}, []string{first, second}, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := digest.FromBytes(file(t, "cosign/"+tt.image+".json"))
			r := &repo{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
			var layers []ocispec.Descriptor
			for _, name := range tt.by {
				layers = append(layers, r.layer(cosign.SimpleSigningType, file(t, name+".payload.json"),
					map[string]string{cosign.SignatureAnnotation: strings.TrimSpace(string(file(t, name+".sig")))}))
			}
			r.put("sha256-"+img.Encoded()+".sig", layers...)
			p := cosign.Policy{Keys: keys(t, tt.keys...), Threshold: tt.threshold}
			got, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: img})
			if len(got) != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("admitted by %q, want %d keys; error %v", got, tt.want, err)
			}
			if err != nil && !errors.Is(err, oci.ErrNotAdmitted) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// TestReferrerWithClassicSignatures: in its OCI 1.1 mode, cosign makes a referrer
// of what is otherwise tagged.
func TestReferrerWithClassicSignatures(t *testing.T) {
	img := digest.FromBytes(file(t, "cosign/image.json"))
	r := &repo{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
	l := r.layer(cosign.SimpleSigningType, file(t, "cosign/first.payload.json"),
		map[string]string{cosign.SignatureAnnotation: strings.TrimSpace(string(file(t, "cosign/first.sig")))})
	r.put("", l)
	p := cosign.Policy{Keys: keys(t, "cosign/first")}
	if _, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: img}); !errors.Is(err, oci.ErrNotAdmitted) {
		t.Errorf("as a referrer of another type: %v", err)
	}
	r.referrers[0].ArtifactType = cosign.ClassicType
	if _, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: img}); err != nil {
		t.Error(err)
	}
	p.Keys = keys(t, "cosign/second")
	if _, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: img}); !errors.Is(err, oci.ErrNotAdmitted) {
		t.Errorf("by another key: %v", err)
	}
}
