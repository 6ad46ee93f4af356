package media

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// "cosign save" makes layouts without tags. It says of each manifest in the index
// what it is, and leaves out those that refer to the image: their blobs are there,
// and cosign finds them by looking at all.
const (
	savedKind         = "kind" // the annotation
	savedImage        = "dev.cosignproject.cosign/image"
	savedIndex        = "dev.cosignproject.cosign/imageIndex"
	savedSignatures   = "dev.cosignproject.cosign/sigs"
	savedAttestations = "dev.cosignproject.cosign/atts"
)

// maxLoose bounds the size of a manifest that no index lists, in bytes.
const maxLoose = 64 << 10

func isSaved(d ocispec.Descriptor, kinds ...string) bool {
	return slices.Contains(kinds, d.Annotations[savedKind])
}

// saved finds the signatures of the saved image by the tag that a registry has
// for them.
func (l *Layout) saved(tag string) (ocispec.Descriptor, bool) {
	of := slices.IndexFunc(l.index.Manifests, func(d ocispec.Descriptor) bool {
		return isSaved(d, savedImage, savedIndex) && tag == "sha256-"+d.Digest.Encoded()+".sig"
	})
	sigs := slices.IndexFunc(l.index.Manifests, func(d ocispec.Descriptor) bool { return isSaved(d, savedSignatures) })
	if of < 0 || sigs < 0 {
		return ocispec.Descriptor{}, false
	}
	return l.index.Manifests[sigs], true
}

// loose returns what may be manifests among all blobs of a saved layout, in the
// order of their names; nothing for other layouts, whose index lists them.
func (l *Layout) loose(ctx context.Context) ([]ocispec.Descriptor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listed != nil || !slices.ContainsFunc(l.index.Manifests, func(d ocispec.Descriptor) bool { return isSaved(d, savedImage, savedIndex) }) {
		return l.listed, nil
	}
	listed := []ocispec.Descriptor{}
	err := l.files.blobs(ctx, l.budget, func(hex string, size int64) {
		d := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if d.Validate() == nil && size <= maxLoose {
			listed = append(listed, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: size})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing blobs: %w", err)
	}
	slices.SortFunc(listed, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	l.listed = listed
	return listed, nil
}
