package ocipush

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/source/oci"
)

const (
	maxNested   = 3    // how deep loaders follow indexes in indexes
	maxSignable = 1024 // manifests of one image, each of which costs a signature
)

// Signable lists what has to be signed for image to be admitted everywhere: the
// manifest itself or, of an index, the manifest for each platform, since that is
// what a loader asks the signatures of, and the index before them.
func Signable(ctx context.Context, src content.Fetcher, image ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	s := &signables{src: src, seen: make(map[digest.Digest]bool)}
	if err := s.add(ctx, image, maxNested); err != nil {
		return nil, err
	}
	return s.list, nil
}

type signables struct {
	src  content.Fetcher
	list []ocispec.Descriptor
	seen map[digest.Digest]bool
}

func (s *signables) add(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if s.seen[d.Digest] {
		return nil
	}
	s.seen[d.Digest] = true
	if s.list = append(s.list, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}); len(s.list) > maxSignable {
		return fmt.Errorf("%w: more than %d manifests to sign", ErrTooMuch, maxSignable)
	}
	if !oci.IsIndex(d.MediaType) {
		return nil
	}
	if depth == 0 || d.Size > oci.MaxManifest {
		return fmt.Errorf("index %s: %w: %d bytes, or more than %d indexes in each other", d.Digest, oci.ErrManifest, d.Size, maxNested)
	}
	raw, err := content.FetchAll(ctx, s.src, d)
	if err != nil {
		return fmt.Errorf("reading the index %s: %w", d.Digest, err)
	}
	x, err := oci.ParseIndex(d.MediaType, raw)
	if err != nil {
		return fmt.Errorf("index %s: %w", d.Digest, err)
	}
	for _, m := range x.Manifests {
		if err := s.add(ctx, m, depth-1); err != nil {
			return err
		}
	}
	return nil
}
