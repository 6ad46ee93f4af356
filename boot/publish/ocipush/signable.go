package ocipush

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/source/oci"
)

// maxNested is how deep loaders follow indexes in indexes.
const maxNested = 3

// Signable lists what has to be signed for image to be admitted everywhere: the
// manifest itself or, of an index, the manifest for each platform, since that is
// what a loader asks the signatures of, and the index before them.
func Signable(ctx context.Context, src content.Fetcher, image ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return signable(ctx, src, image, maxNested)
}

func signable(ctx context.Context, src content.Fetcher, d ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	list := []ocispec.Descriptor{{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	if !oci.IsIndex(d.MediaType) {
		return list, nil
	}
	if depth == 0 || d.Size > oci.MaxManifest {
		return nil, fmt.Errorf("index %s: %w: %d bytes, or more than %d indexes in each other", d.Digest, oci.ErrManifest, d.Size, maxNested)
	}
	raw, err := content.FetchAll(ctx, src, d)
	if err != nil {
		return nil, fmt.Errorf("reading the index %s: %w", d.Digest, err)
	}
	x, err := oci.ParseIndex(d.MediaType, raw)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	for _, m := range x.Manifests {
		inner, err := signable(ctx, src, m, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, inner...)
	}
	return list, nil
}
