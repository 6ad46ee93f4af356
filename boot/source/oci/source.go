package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/measure/event"
)

// Place is one repository that has the image: in a registry ([Remote]) or on
// local media.
type Place interface {
	Repository
	String() string
	Reference() string // tag or digest of the image
	Mirror() fetch.Mirror
}

// Options say where an image is and what it has to be.
type Options struct {
	Places   []Place          // at least one, in order of preference
	Platform ocispec.Platform // zero means ThisPlatform

	// Admit is the signature policy: it returns the names of the keys that
	// admit an image, or an error: ErrNotAdmitted if asking that place again
	// is useless. Nil admits every image; the names of its keys are then empty.
	Admit func(ctx context.Context, repo Repository, image ocispec.Descriptor) ([]string, error)

	// Accept refuses an image that was admitted, before anything of it is
	// fetched, and the next place is asked: one that is too old, for example. Nil
	// accepts every image.
	Accept func(ctx context.Context, image *Image) error

	Fetch  fetch.Options // for the blobs; Mirrors is set from Places
	Rounds int           // times to go through all places; 0 means 4
	// Timeout bounds resolving and admitting at one place; 0 means 2 min.
	Timeout time.Duration
}

// Source opens one image. It keeps what it has fetched until it is closed, so
// opening again after a failure goes on where that was.
type Source struct {
	opt     Options
	fetcher *fetch.Fetcher
}

// New returns a Source. It does no I/O.
func New(opt Options) (*Source, error) {
	if opt.Platform.OS == "" && opt.Platform.Architecture == "" {
		opt.Platform = ThisPlatform()
	}
	if opt.Rounds <= 0 {
		opt.Rounds = 4
	}
	if opt.Timeout <= 0 {
		opt.Timeout = 2 * time.Minute
	}
	opt.Fetch.Mirrors = nil
	for _, p := range opt.Places {
		opt.Fetch.Mirrors = append(opt.Fetch.Mirrors, p.Mirror())
	}
	f, err := fetch.New(opt.Fetch)
	if err != nil {
		return nil, err
	}
	return &Source{opt: opt, fetcher: f}, nil
}

// Close drops what was fetched and not handed out.
func (s *Source) Close() error { return s.fetcher.Close() }

// Open finds the image at the first place that has it and where it is
// admitted. Places that may only be out of order are asked again, after pauses.
func (s *Source) Open(ctx context.Context) (*Image, error) {
	pause := time.Second
	for round := 1; ; round++ {
		img, final, err := s.openOnce(ctx)
		if err == nil {
			return img, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if final || round >= s.opt.Rounds {
			return nil, err
		}
		timer := time.NewTimer(pause - time.Duration(rand.Int64N(int64(pause/2))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		pause *= 2
	}
}

// openOnce asks every place once. final says that asking again is useless.
func (s *Source) openOnce(ctx context.Context) (img *Image, final bool, err error) {
	var errs []error
	final = true
	for _, p := range s.opt.Places {
		img, err := s.openAt(ctx, p)
		if err == nil {
			return img, true, nil
		}
		if ctx.Err() != nil {
			return nil, false, errors.Join(errs...)
		}
		final = final && isFinal(err)
		errs = append(errs, fmt.Errorf("%s: %w", p, err))
	}
	return nil, final, fmt.Errorf("opening the image: %w", errors.Join(errs...))
}

func (s *Source) openAt(ctx context.Context, p Place) (*Image, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	res, err := Resolve(ctx, p, p.Reference(), s.opt.Platform)
	if err != nil {
		return nil, err
	}
	img := &Image{Resolved: res, Place: p.String(), Reference: p.Reference(), source: s}
	if s.opt.Admit != nil {
		if img.Keys, err = s.opt.Admit(ctx, p, res.Descriptor); err != nil {
			return nil, fmt.Errorf("admitting %s: %w", res.Descriptor.Digest, err)
		}
	}
	if s.opt.Accept != nil {
		if err := s.opt.Accept(ctx, img); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotAdmitted, res.Descriptor.Digest, err)
		}
	}
	img.wanted = make(map[digest.Digest]int)
	for _, d := range res.Contents() {
		img.wanted[d.Digest]++
	}
	return img, nil
}

// isFinal reports whether err will come again however often one asks.
func isFinal(err error) bool {
	var status *errcode.ErrorResponse
	if errors.As(err, &status) {
		switch c := status.StatusCode; c {
		case 408, 425, 429:
			return false
		default:
			return c >= 400 && c < 500
		}
	}
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotAdmitted) || errors.Is(err, ErrManifest) || errors.Is(err, ErrPlatform)
}

// Image is an image that was found and admitted.
type Image struct {
	*Resolved
	Place     string   // where it was found
	Reference string   // by which tag or digest
	Keys      []string // that admitted it

	source *Source
	mu     sync.Mutex
	wanted map[digest.Digest]int // times that a blob will be asked for
	spare  map[digest.Digest]*os.File
}

// Provenance is what is measured about why the image may run.
func (i *Image) Provenance() []event.Record {
	r := event.Record{
		Type:   event.TypeProvenance,
		Name:   "oci",
		SHA256: i.Descriptor.Digest.Encoded(),
		Size:   i.Descriptor.Size,
		Detail: map[string]string{"mediaType": i.Descriptor.MediaType, "reference": i.Reference},
	}
	if len(i.Keys) > 0 {
		r.Detail["keys"] = strings.Join(i.Keys, ",")
	}
	if i.Index != "" {
		r.Detail["index"] = i.Index.String()
	}
	return []event.Record{r}
}

// Prefetch fetches the config and all layers, several at once, after comparing
// the sum of their sizes with the room there is.
func (i *Image) Prefetch(ctx context.Context) error {
	var blobs []fetch.Blob
	for _, d := range i.Contents() {
		blobs = append(blobs, fetch.Blob{Digest: d.Digest, Size: d.Size})
	}
	return i.source.fetcher.Prefetch(ctx, blobs...)
}

// Held is how many bytes of the image's blobs are in memory, from this call or
// an earlier one.
func (i *Image) Held() int64 {
	var n int64
	seen := make(map[digest.Digest]bool)
	for _, d := range i.Contents() {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			n += i.source.fetcher.Have(fetch.Blob{Digest: d.Digest, Size: d.Size})
		}
	}
	return n
}

// Blob returns the verified content of d in a read-only file at position 0,
// which the caller closes; its memory is freed then.
func (i *Image) Blob(ctx context.Context, d ocispec.Descriptor) (*os.File, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f := i.spare[d.Digest]
	delete(i.spare, d.Digest)
	if f == nil {
		var err error
		if f, err = i.source.fetcher.Blob(ctx, fetch.Blob{Digest: d.Digest, Size: d.Size}); err != nil {
			return nil, err
		}
	}
	if i.wanted[d.Digest]--; i.wanted[d.Digest] <= 0 {
		return f, nil
	}
	// The manifest names it again: keep it.
	again, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keeping %s: %w", d.Digest, err), f.Close())
	}
	if i.spare == nil {
		i.spare = make(map[digest.Digest]*os.File)
	}
	i.spare[d.Digest] = again
	return f, nil
}

// Stream gives the bytes of d to take while they arrive, as [fetch.Fetcher.Stream]
// does.
func (i *Image) Stream(ctx context.Context, d ocispec.Descriptor, take func(io.Reader) error) error {
	return i.source.fetcher.Stream(ctx, fetch.Blob{Digest: d.Digest, Size: d.Size}, take)
}

// Close frees blobs that were not asked for as often as the manifest names them.
func (i *Image) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var errs []error
	for d, f := range i.spare {
		errs = append(errs, f.Close())
		delete(i.spare, d)
	}
	return errors.Join(errs...)
}
