package ocipush

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// download brings blobs from a registry to a target, and goes on with what an
// earlier one has left. A nil *download leaves that to others.
type download struct {
	dst     *Target
	fetcher *fetch.Fetcher
	cache   *fetch.Cache // nil: what has arrived does not outlive the process
}

func newDownload(src *Source, dst *Target, warn func(error)) (*download, error) {
	if src.mirror == nil {
		return nil, nil
	}
	d := &download{dst: dst}
	if dst.partials != "" {
		err := os.MkdirAll(dst.partials, 0o700)
		if err == nil {
			d.cache, err = fetch.OpenCache(dst.partials)
		}
		if err != nil {
			return nil, fmt.Errorf("keeping what arrives: %w", err)
		}
	}
	var err error
	d.fetcher, err = fetch.New(fetch.Options{Mirrors: []fetch.Mirror{src.mirror}, Cache: d.cache, Warn: warn})
	if err != nil {
		return nil, errors.Join(err, d.cache.Close())
	}
	return d, nil
}

// blob copies a blob to the target. The error is oras.SkipNode when it is
// there, and nil when nothing was done.
func (d *download) blob(ctx context.Context, desc ocispec.Descriptor) error {
	if d == nil || isManifest(desc.MediaType) {
		return nil
	}
	b := fetch.Blob{Digest: desc.Digest, Size: desc.Size}
	err := d.fetcher.Stream(ctx, b, func(r io.Reader) error {
		if err := d.dst.Push(ctx, desc, r); !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
		return nil
	})
	if errors.Is(err, fetch.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if !d.dst.unfinished {
		if err := d.cache.Forget(b); err != nil {
			return err
		}
	}
	return oras.SkipNode
}

// close ends the use of d.
func (d *download) close() error {
	if d == nil {
		return nil
	}
	err := errors.Join(d.fetcher.Close(), d.cache.Close())
	if d.cache != nil {
		_ = os.Remove(d.dst.partials) // not if there is something in it
	}
	return err
}
