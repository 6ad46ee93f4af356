package oci

import (
	"context"
	"errors"
	"fmt"
	"iter"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
)

// maxPages bounds a registry's list of referrers; a page has at most
// maxDescriptors.
const maxPages = 16

// errEnough ends a list that no one reads further.
var errEnough = errors.New("enough")

// Referrers implements [Repository]. What a page before a broken one has is
// handed out: the rest of the list must not hide it.
func (r *Remote) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		err := r.repo.Referrers(ctx, subject, artifactType, func(page []ocispec.Descriptor) error {
			for _, d := range page {
				if checkDescriptors([]ocispec.Descriptor{d}) != nil {
					continue // must not hide the others
				}
				if !yield(d, nil) {
					return errEnough
				}
			}
			return nil
		})
		switch {
		case err == nil || errors.Is(err, errEnough):
		case errors.Is(err, errdef.ErrTooManyPages):
			yield(ocispec.Descriptor{}, fmt.Errorf("%w: a list of referrers with more than %d pages", ErrManifest, maxPages))
		default:
			yield(ocispec.Descriptor{}, failure(err))
		}
	}
}
