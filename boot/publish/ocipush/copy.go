package ocipush

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// attached are the suffixes of the tags "sha256-HEX" under which cosign's
// classic form keeps what belongs to an image.
var attached = []string{".sig", ".att", ".sbom"}

// ErrTooMuch says that more belongs to an image than belongs to any in good faith. A
// registry can make up what refers to an image, and to that, without end.
var ErrTooMuch = errors.New("too much belongs to the image")

const (
	maxNodes = 1 << 14 // manifests and blobs of an image, with all that refers to it
	maxChain = 8       // what refers to what refers to it, and so on
)

// CopyOptions say who is told of a copy. None is called while another one or itself runs; each may be nil.
type CopyOptions struct {
	Note     func(ocispec.Descriptor) // what was copied
	Warn     func(error)              // what was survived
	Progress func(fetch.Progress)     // of all that has to be copied, as far as it is known
}

// Copy copies the image that src's reference names to dst, with everything
// that refers to it or to a manifest in it, in both of the ways there are: as
// referrers and under tags made of the digest. It returns the image.
//
// What dst has is not copied, and a copy that was interrupted goes on where it
// was: of each blob from a registry the bytes that have arrived are kept.
func Copy(ctx context.Context, src *Source, dst *Target, o CopyOptions) (_ ocispec.Descriptor, err error) {
	reference := src.Reference
	if reference == "" {
		return ocispec.Descriptor{}, errors.New("copying: name a tag or digest of the source")
	}
	var one sync.Mutex
	note, warn := inTurn(&one, o.Note), inTurn(&one, o.Warn)
	var tally *tally
	if o.Progress != nil {
		tally = newTally(inTurn(&one, o.Progress))
		defer func() {
			if err == nil {
				tally.meter.Flush()
			}
		}()
	}
	dst = tally.into(dst)
	download, err := newDownload(src, dst, warn)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, download.close()) }()
	root, err := src.Resolve(ctx, reference)
	if err != nil {
		return root, fmt.Errorf("finding %s: %w", reference, err)
	}
	c := &copier{src: src, dst: dst, tally: tally, done: make(map[digest.Digest]bool)}
	c.opts.PreCopy = func(ctx context.Context, d ocispec.Descriptor) error {
		err := download.blob(ctx, d)
		if err == oras.SkipNode {
			note(d)
		}
		return err
	}
	c.opts.PostCopy = func(_ context.Context, d ocispec.Descriptor) error {
		note(d)
		return nil
	}
	c.opts.OnCopySkipped = func(_ context.Context, d ocispec.Descriptor) error {
		tally.settle(d, 0)
		return nil
	}
	c.opts.FindSuccessors = func(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		parts, err := content.Successors(ctx, f, d)
		if c.nodes.Add(int64(1+len(parts))) > maxNodes {
			return nil, fmt.Errorf("%w: more than %d manifests and blobs", ErrTooMuch, maxNodes)
		}
		tally.expect(parts...)
		return parts, err
	}
	if err := c.graph(ctx, root, 0); err != nil {
		return root, err
	}
	tag := dst.Reference
	if tag == "" && digest.Digest(reference).Validate() != nil {
		tag = reference
	}
	if tag == "" || digest.Digest(tag).Validate() == nil {
		return root, nil
	}
	if err := dst.Tag(ctx, root, tag); err != nil {
		return root, fmt.Errorf("tagging %s: %w", tag, err)
	}
	return root, nil
}

// inTurn calls f, or nothing if it is nil, one call at a time.
func inTurn[T any](one *sync.Mutex, f func(T)) func(T) {
	return func(v T) {
		if f == nil {
			return
		}
		one.Lock()
		defer one.Unlock()
		f(v)
	}
}

type copier struct {
	src   *Source
	dst   *Target
	tally *tally
	opts  oras.CopyGraphOptions
	done  map[digest.Digest]bool
	nodes atomic.Int64
}

// graph copies a manifest, what it names, and what refers to any of that. It is so many
// references away from the image.
func (c *copier) graph(ctx context.Context, root ocispec.Descriptor, away int) error {
	if c.done[root.Digest] {
		return nil
	}
	if away > maxChain {
		return fmt.Errorf("copying %s: %w: it refers to what refers to the image, %d times", root.Digest, ErrTooMuch, away)
	}
	c.tally.expect(root)
	if err := oras.CopyGraph(ctx, c.src, c.dst, root, c.opts); err != nil {
		return fmt.Errorf("copying %s: %w", root.Digest, err)
	}
	return c.attachments(ctx, root, away)
}

// attachments copies what refers to a manifest or to those in an index.
func (c *copier) attachments(ctx context.Context, d ocispec.Descriptor, away int) error {
	if c.done[d.Digest] {
		return nil
	}
	c.done[d.Digest] = true
	refs, err := registry.Referrers(ctx, c.src, d, "")
	if err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("listing what refers to %s: %w", d.Digest, err)
	}
	for _, r := range refs {
		if err := c.graph(ctx, r, away+1); err != nil {
			return err
		}
	}
	for _, suffix := range attached {
		if err := c.tagged(ctx, "sha256-"+d.Digest.Encoded()+suffix, away+1); err != nil {
			return err
		}
	}
	if !isIndex(d.MediaType) {
		return nil
	}
	children, err := content.Successors(ctx, c.src, d)
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.Digest, err)
	}
	for _, child := range children {
		if err := c.attachments(ctx, child, away); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) tagged(ctx context.Context, tag string, away int) error {
	d, err := c.src.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding %s: %w", tag, err)
	}
	if err := c.graph(ctx, d, away); err != nil {
		return err
	}
	if err := c.dst.Tag(ctx, d, tag); err != nil {
		return fmt.Errorf("tagging %s: %w", tag, err)
	}
	return nil
}

func isManifest(mediaType string) bool {
	return isIndex(mediaType) || mediaType == ocispec.MediaTypeImageManifest || mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}
