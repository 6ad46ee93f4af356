package cosign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/oci"
)

// Policy says which keys admit an image.
type Policy struct {
	Keys []Key
	// Threshold is how many of Keys must have signed; 0 means all of them.
	Threshold int
	// Identity is the repository that a signature must name to count, as
	// "registry/name"; empty if it need not name any.
	Identity string
}

// Admit returns the IDs of the keys that signed image, sorted, if they are
// enough. The error is [oci.ErrNotAdmitted] if the repository answered
// everything and they are not.
func (p Policy) Admit(ctx context.Context, repo oci.Repository, image ocispec.Descriptor) ([]string, error) {
	need := p.Threshold
	if need == 0 {
		need = len(p.Keys)
	}
	if len(p.Keys) == 0 || need < 0 || need > len(p.Keys) {
		return nil, fmt.Errorf("%w: the policy wants %d signatures by %d keys", oci.ErrNotAdmitted, need, len(p.Keys))
	}
	s := &search{policy: p, repo: repo, image: image, need: need, found: make(map[string]bool)}
	s.run(ctx)
	if len(s.found) >= need {
		return slices.Sorted(maps.Keys(s.found)), nil
	}
	err := fmt.Errorf("%d of %d signatures needed, by %d pinned keys", len(s.found), need, len(p.Keys))
	err = errors.Join(append([]error{err}, s.failures...)...)
	if s.unanswered {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", oci.ErrNotAdmitted, err)
}
