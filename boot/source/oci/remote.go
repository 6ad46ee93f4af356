package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/measure/redact"
)

// Remote is a repository in a registry.
type Remote struct {
	repo   *remote.Repository
	client *auth.Client
}

// NewRemote returns the repository that reference, "host/name[:tag|@digest]",
// lies in. It does no I/O.
func NewRemote(reference string, conn Connection) (*Remote, error) {
	repo, err := remote.NewRepository(reference)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", reference, err)
	}
	client, err := conn.client(repo.Reference.Host())
	if err != nil {
		return nil, err
	}
	repo.Client = bounded{client}
	repo.PlainHTTP = conn.PlainHTTP
	repo.ReferrerListMaxPages = maxPages
	repo.MaxMetadataBytes = MaxManifest
	repo.SkipReferrersGC = true // many registries, and accounts that may only push, delete nothing
	return &Remote{repo: repo, client: client}, nil
}

// Repository gives access to everything else that oras can do, pushing included.
// Its errors have to go through [redact.Error].
func (r *Remote) Repository() *remote.Repository { return r.repo }

// Reference is the tag or digest that the reference named; "latest" if none.
func (r *Remote) Reference() string { return r.repo.Reference.ReferenceOrDefault() }

// String is the repository's name, without tag or digest.
func (r *Remote) String() string {
	return r.repo.Reference.Registry + "/" + r.repo.Reference.Repository
}

// Close drops idle connections.
func (r *Remote) Close() { r.client.Client.CloseIdleConnections() }

// Manifest implements [Repository].
func (r *Remote) Manifest(ctx context.Context, reference string) (ocispec.Descriptor, []byte, error) {
	desc, body, err := r.repo.Manifests().FetchReference(ctx, reference)
	if err != nil {
		return ocispec.Descriptor{}, nil, failure(err)
	}
	raw, err := readAll(body, desc, MaxManifest)
	return desc, raw, err
}

// Bytes implements [Repository].
func (r *Remote) Bytes(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptors([]ocispec.Descriptor{d}); err != nil {
		return nil, err
	}
	body, err := r.repo.Blobs().Fetch(ctx, d)
	if err != nil {
		return nil, failure(err)
	}
	return readAll(body, d, limit)
}

// readAll reads what d describes, if it is no larger than limit, and closes body.
func readAll(body io.ReadCloser, d ocispec.Descriptor, limit int64) ([]byte, error) {
	defer body.Close()
	if d.Size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrManifest, d.Digest, d.Size, limit)
	}
	raw, err := content.ReadAll(body, d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, redact.Error(err))
	}
	return raw, nil
}

// failure is what becomes of a request's error: content that is not there can be
// told, and where the registry redirected to stays secret.
func failure(err error) error {
	err = redact.Error(err)
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Mirror serves the repository's blobs to a [fetch.Fetcher].
func (r *Remote) Mirror() fetch.Mirror { return blobs{r} }

type blobs struct{ *Remote }

func (b blobs) Get(ctx context.Context, blob fetch.Blob, byteRange string) (*http.Response, error) {
	ref := b.repo.Reference
	scheme := "https"
	if b.repo.PlainHTTP {
		scheme = "http"
	}
	h := fetch.HTTP{Client: b.client, URL: func(blob fetch.Blob) string {
		return fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, ref.Host(), ref.Repository, blob.Digest)
	}}
	return h.Get(auth.AppendRepositoryScope(ctx, ref, auth.ActionPull), blob, byteRange)
}
