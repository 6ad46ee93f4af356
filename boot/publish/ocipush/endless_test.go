package ocipush

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"
)

// endless is a registry in which something refers to everything.
type endless struct {
	*memory.Store
	t    *testing.T
	made int
}

func (e *endless) push(mediaType string, v any) ocispec.Descriptor {
	e.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		e.t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if has, err := e.Exists(e.t.Context(), d); err != nil {
		e.t.Fatal(err)
	} else if !has {
		if err := e.Push(e.t.Context(), d, bytes.NewReader(raw)); err != nil {
			e.t.Fatal(err)
		}
	}
	return d
}

func (e *endless) manifest(subject *ocispec.Descriptor) ocispec.Descriptor {
	e.t.Helper()
	return e.push(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: e.push("application/vnd.oci.empty.v1+json", struct{}{}), Layers: []ocispec.Descriptor{}, Subject: subject,
		Annotations: map[string]string{"n": fmt.Sprint(e.made)},
	})
}

func (e *endless) Predecessors(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if e.made++; e.made > 1000 {
		return nil, errors.New("it would have gone on for ever")
	}
	return []ocispec.Descriptor{e.manifest(&d)}, nil
}

// TestEndlessReferrers: a registry that makes up what refers to what refers to an image fills no disk.
func TestEndlessReferrers(t *testing.T) {
	e := &endless{Store: memory.New(), t: t}
	image := e.manifest(nil)
	if err := e.Tag(t.Context(), image, "v1"); err != nil {
		t.Fatal(err)
	}
	src := &Source{ReadOnlyGraphTarget: e, Reference: "v1", close: func() error { return nil }}
	dst := &Target{GraphTarget: memory.New(), finish: func() error { return nil }, cleanup: func() error { return nil }}
	if _, err := Copy(t.Context(), src, dst, CopyOptions{}); !errors.Is(err, ErrTooMuch) {
		t.Errorf("Copy: %v, want ErrTooMuch", err)
	}
}

// TestTooMuchToSign: an index names so many manifests that signing them would take hours, or one of them again and again.
func TestTooMuchToSign(t *testing.T) {
	e := &endless{Store: memory.New(), t: t}
	index := func(manifests []ocispec.Descriptor) ocispec.Descriptor {
		return e.push(ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
		})
	}
	var same, others []ocispec.Descriptor
	for i := range maxSignable {
		same = append(same, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("one"), Size: 1})
		others = append(others, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
	}
	if list, err := Signable(t.Context(), e, index(same)); err != nil || len(list) != 2 {
		t.Errorf("one manifest, named %d times: %d to sign, %v", len(same), len(list), err)
	}
	if list, err := Signable(t.Context(), e, index(others)); !errors.Is(err, ErrTooMuch) {
		t.Errorf("%d manifests: %d to sign, %v", len(others), len(list), err)
	}
}
