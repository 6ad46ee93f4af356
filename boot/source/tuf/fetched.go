package tuf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// Fetched is [Targets] in memory, by way of boot/source/fetch: several mirrors, several
// connections, and partial files that outlive a power cut.
type Fetched struct {
	fetcher *fetch.Fetcher

	mu    sync.Mutex
	paths map[digest.Digest]string // where the mirrors have it
}

// NewFetched returns targets that come from the directories at urls, in this order
// of preference. The Mirrors of opt are replaced; a nil client is
// [http.DefaultTransport] without cookies.
func NewFetched(urls []string, client *http.Client, opt fetch.Options) (*Fetched, error) {
	f := &Fetched{paths: map[digest.Digest]string{}}
	opt.Mirrors = nil
	for _, url := range urls {
		opt.Mirrors = append(opt.Mirrors, fetch.HTTP{
			Name:   url,
			Client: httpClient(client),
			URL:    func(b fetch.Blob) string { return targetURL(url, f.path(b.Digest)) },
		})
	}
	var err error
	if f.fetcher, err = fetch.New(opt); err != nil {
		return nil, fmt.Errorf("tuf: %w", err)
	}
	return f, nil
}

func (f *Fetched) path(d digest.Digest) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paths[d]
}

// Target implements [Targets].
func (f *Fetched) Target(ctx context.Context, path string, want Want) (*os.File, error) {
	d := digest.NewDigestFromBytes(digest.SHA256, want.SHA256)
	if want.SHA256 == nil {
		d = digest.NewDigestFromBytes(digest.SHA512, want.SHA512)
	}
	f.mu.Lock()
	f.paths[d] = path
	f.mu.Unlock()
	file, err := f.fetcher.Blob(ctx, fetch.Blob{Digest: d, Size: want.Size})
	if errors.Is(err, fetch.ErrDigest) {
		err = fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if err != nil || want.SHA256 == nil || want.SHA512 == nil {
		return file, err
	}
	if err := want.Check(io.NewSectionReader(file, 0, want.Size)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Close drops what was fetched and not handed out.
func (f *Fetched) Close() error { return f.fetcher.Close() }
