package cosign

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/oci"
)

const (
	maxPayload  = 1 << 20 // bytes, of a payload or bundle
	maxTried    = 64      // signatures of each form that are looked at
	maxFailures = 8       // that are told
)

// Policy says which keys admit an image.
type Policy struct {
	Keys []Key
	// Threshold is how many of Keys must have signed; 0 means all of them.
	Threshold int
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
	s := &search{policy: p, repo: repo, image: image, found: make(map[string]bool)}
	s.note(s.bundles(ctx))
	if len(s.found) < need {
		s.note(s.classic(ctx))
	}
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

// search collects the keys that signed an image.
type search struct {
	policy     Policy
	repo       oci.Repository
	image      ocispec.Descriptor
	found      map[string]bool // by ID
	failures   []error
	unanswered bool // something may come of asking again
}

// note keeps the reason why a signature did not count.
func (s *search) note(err error) {
	if err == nil {
		return
	}
	if !errors.Is(err, ErrSignature) && !errors.Is(err, oci.ErrNotFound) && !errors.Is(err, oci.ErrManifest) {
		s.unanswered = true
	}
	if len(s.failures) < maxFailures {
		s.failures = append(s.failures, err)
	}
}

// first returns those of a list that are looked at.
func first(s *search, list []ocispec.Descriptor) []ocispec.Descriptor {
	if len(list) <= maxTried {
		return list
	}
	// Told first: the failures of the others may be many.
	s.failures = append([]error{fmt.Errorf("only the first %d of %d signatures were looked at", maxTried, len(list))}, s.failures...)
	return list[:maxTried]
}

// classic looks at the layers of the manifest with the signatures' tag.
func (s *search) classic(ctx context.Context) error {
	tag := "sha256-" + s.image.Digest.Encoded() + ".sig"
	desc, raw, err := s.repo.Manifest(ctx, tag)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signatures %s: %w", tag, err)
	}
	m, err := oci.ParseManifest(desc.MediaType, raw)
	if err != nil {
		return fmt.Errorf("signatures %s: %w", tag, err)
	}
	for _, l := range first(s, m.Layers) {
		sig := l.Annotations[SignatureAnnotation]
		if l.MediaType != SimpleSigningType || sig == "" {
			continue
		}
		payload, err := s.repo.Bytes(ctx, l, maxPayload)
		if err != nil {
			s.note(err)
			continue
		}
		key, err := VerifySimple(payload, sig, s.image.Digest, s.policy.Keys)
		if err != nil {
			s.note(err)
			continue
		}
		s.found[key.id] = true
	}
	return nil
}

// bundles looks at the referrers that are bundles.
func (s *search) bundles(ctx context.Context) error {
	refs, err := s.repo.Referrers(ctx, s.image, BundleType)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing signatures: %w", err)
	}
	for _, r := range first(s, refs) {
		keys, err := s.bundle(ctx, r)
		if err != nil {
			s.note(fmt.Errorf("bundle %s: %w", r.Digest, err))
			continue
		}
		for _, k := range keys {
			s.found[k.id] = true
		}
	}
	return nil
}

func (s *search) bundle(ctx context.Context, referrer ocispec.Descriptor) ([]Key, error) {
	desc, raw, err := s.repo.Manifest(ctx, referrer.Digest.String())
	if err != nil {
		return nil, err
	}
	m, err := oci.ParseManifest(desc.MediaType, raw)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != BundleType {
		return nil, fmt.Errorf("%w: the referrer does not hold one bundle", ErrSignature)
	}
	b, err := s.repo.Bytes(ctx, m.Layers[0], maxPayload)
	if err != nil {
		return nil, err
	}
	return VerifyBundle(b, s.image.Digest, s.policy.Keys)
}
