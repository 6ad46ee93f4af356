package cosign

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/oci"
)

// What a search for signatures of one form costs at most. Attestations have the artifact
// type of signatures, a build makes dozens of them, and anyone who may push can add
// more. What is listed is therefore not what is counted: a signature that does
// not verify is, and what is read to find that out.
const (
	maxPayload  = 1 << 20 // bytes, of a payload or bundle
	maxVerified = 64      // signatures that are verified
	maxRequests = 1024    // for manifests and blobs
	maxRead     = 8 << 20 // bytes of them
	maxFailures = 8       // that are told
)

// search collects the keys that signed an image.
type search struct {
	policy Policy
	repo   oci.Repository
	image  ocispec.Descriptor
	need   int
	found  map[string]bool // by ID

	verified, requests int // for the form that is searched
	read               int64

	failures   []error
	unanswered bool // something may come of asking again
}

// errBound ends a search that has cost enough.
var errBound = fmt.Errorf("%w: the search ended early", ErrSignature)

// run looks at one form after the other, until there are enough.
func (s *search) run(ctx context.Context) {
	for _, form := range []func(context.Context) error{
		func(ctx context.Context) error { return s.referrers(ctx, BundleType, s.bundle) },
		func(ctx context.Context) error { return s.referrers(ctx, ClassicType, s.classic) },
		s.tagged,
	} {
		if s.done() || ctx.Err() != nil {
			return
		}
		s.verified, s.requests, s.read = 0, 0, 0 // junk in one form must not hide the next
		s.note(form(ctx))
	}
}

func (s *search) done() bool { return len(s.found) >= s.need }

// note keeps the reason why a signature did not count.
func (s *search) note(err error) {
	if err == nil {
		return
	}
	if !errors.Is(err, ErrSignature) && !errors.Is(err, oci.ErrNotFound) && !errors.Is(err, oci.ErrManifest) {
		s.unanswered = true
	}
	switch {
	case errors.Is(err, errBound):
		s.failures = slices.Insert(s.failures, 0, err) // those of the others may be many
	case len(s.failures) < maxFailures:
		s.failures = append(s.failures, err)
	}
}

// spend accounts for a request that brings size bytes.
func (s *search) spend(size int64) error {
	s.requests, s.read = s.requests+1, s.read+size
	if s.requests > maxRequests || s.read > maxRead {
		return fmt.Errorf("%w: after %d requests and %d bytes", errBound, s.requests-1, s.read-size)
	}
	return nil
}

// verify accounts for a signature that is verified next.
func (s *search) verify() error {
	if s.verified == maxVerified {
		return fmt.Errorf("%w: only %d signatures were verified", errBound, maxVerified)
	}
	s.verified++
	return nil
}

// referrers looks at the image's referrers of one type: at once at those that say
// that they are signatures, then at those that say nothing, then at the others.
// What they say is not signed, so it decides about the order alone.
func (s *search) referrers(ctx context.Context, kind string, look func(context.Context, ocispec.Manifest) error) error {
	var later [2][]digest.Digest
	seen := make(map[digest.Digest]bool)
	for d, err := range s.repo.Referrers(ctx, s.image, kind) {
		if err != nil {
			if !errors.Is(err, oci.ErrNotFound) {
				s.note(fmt.Errorf("listing signatures: %w", err))
			}
			break
		}
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		if r := rank(kind, d); r > 0 {
			if len(later[r-1]) < maxRequests {
				later[r-1] = append(later[r-1], d.Digest)
			}
		} else if s.referrer(ctx, d.Digest, look) {
			return nil
		}
	}
	// Which keys signed is measured. So all that say the same are looked at, in
	// whatever order they came.
	for _, list := range later {
		if s.done() {
			return nil
		}
		for _, d := range list {
			if s.referrer(ctx, d, look) {
				return nil
			}
		}
	}
	return nil
}

// rank is how late a referrer is looked at.
func rank(kind string, d ocispec.Descriptor) int {
	says, ok := d.Annotations[PredicateAnnotation]
	switch {
	case kind == ClassicType || says == PredicateType:
		return 0
	case !ok:
		return 1 // registries do not all hand annotations out
	}
	return 2
}

// referrer looks at one referrer, and says whether the search ends there.
func (s *search) referrer(ctx context.Context, d digest.Digest, look func(context.Context, ocispec.Manifest) error) (end bool) {
	m, err := s.manifest(ctx, d.String())
	if err == nil {
		err = look(ctx, m)
	}
	if err != nil {
		s.note(fmt.Errorf("referrer %s: %w", d, err))
	}
	return errors.Is(err, errBound) || ctx.Err() != nil
}

func (s *search) manifest(ctx context.Context, reference string) (m ocispec.Manifest, err error) {
	if err := s.spend(0); err != nil {
		return m, err
	}
	desc, raw, err := s.repo.Manifest(ctx, reference)
	if err != nil {
		return m, err
	}
	s.read += int64(len(raw))
	return oci.ParseManifest(desc.MediaType, raw)
}

func (s *search) blob(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxPayload {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", oci.ErrManifest, d.Digest, d.Size, maxPayload)
	}
	if err := s.spend(d.Size); err != nil {
		return nil, err
	}
	return s.repo.Bytes(ctx, d, maxPayload)
}

// bundle looks at a referrer that holds one bundle.
func (s *search) bundle(ctx context.Context, m ocispec.Manifest) error {
	if len(m.Layers) != 1 || m.Layers[0].MediaType != BundleType {
		return fmt.Errorf("%w: the referrer does not hold one bundle", ErrSignature)
	}
	raw, err := s.blob(ctx, m.Layers[0])
	if err != nil {
		return err
	}
	e, err := parseBundle(raw)
	if err != nil {
		return err
	}
	// An attestation is passed over as what it says it is: nothing comes of
	// verifying one.
	if st, err := e.statement(); err == nil && st.PredicateType != "" {
		if err := st.signs(); err != nil {
			return err
		}
	}
	if err := s.verify(); err != nil {
		return err
	}
	keys, err := e.verify(s.demand(), s.policy.Keys)
	if err != nil {
		return err
	}
	for _, k := range keys {
		s.found[k.id] = true
	}
	return nil
}

func (s *search) demand() Demand { return Demand{s.image.Digest, s.policy.Identity} }

// tagged looks at the manifest with the signatures' tag.
func (s *search) tagged(ctx context.Context) error {
	tag := "sha256-" + s.image.Digest.Encoded() + ".sig"
	m, err := s.manifest(ctx, tag)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = s.classic(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("signatures %s: %w", tag, err)
	}
	return nil
}

// classic looks at the layers of a manifest with classic signatures. The error
// is of the search, not of one of them.
func (s *search) classic(ctx context.Context, m ocispec.Manifest) error {
	for _, l := range m.Layers {
		sig := l.Annotations[SignatureAnnotation]
		if l.MediaType != SimpleSigningType || sig == "" {
			continue
		}
		err := s.simple(ctx, l, sig)
		if errors.Is(err, errBound) {
			return err
		}
		s.note(err)
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

func (s *search) simple(ctx context.Context, l ocispec.Descriptor, sig string) error {
	payload, err := s.blob(ctx, l)
	if err != nil {
		return err
	}
	if err := s.verify(); err != nil {
		return err
	}
	key, err := VerifySimple(payload, sig, s.demand(), s.policy.Keys)
	if err == nil {
		s.found[key.id] = true
	}
	return err
}
