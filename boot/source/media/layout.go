package media

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/oci"
)

const (
	blobDir = "blobs/sha256/"
	maxKind = 255 // bytes of an artifact type, as in RFC 6838
)

// Layout is one OCI image layout.
type Layout struct {
	name      string
	reference string
	files     files
	index     ocispec.Index

	budget *survey.Budget // of the medium, for the index and what is read in search of subjects
	mu     sync.Mutex
	looked map[digest.Digest]subject
	listed []ocispec.Descriptor // see loose; nil if that was not needed yet
}

// subject is what a manifest says that it is about, and of which kind it is.
type subject struct {
	of   digest.Digest // empty if it is about nothing, or broken
	kind string
	says string // what is in it, if it is a bundle: [cosign.PredicateAnnotation]
}

func newLayout(name string, f files, b *survey.Budget) *Layout {
	return &Layout{name: name, files: f, budget: b, looked: make(map[digest.Digest]subject)}
}

var _ oci.Place = (*Layout)(nil)

// String is where the layout is.
func (l *Layout) String() string { return l.name }

// Reference is the tag or digest that it was opened for.
func (l *Layout) Reference() string { return l.reference }

// Close ends the use of the layout; files that were handed out stay open.
func (l *Layout) Close() error { return l.files.Close() }

// load reads the index and finds reference in it.
func (l *Layout) load(ctx context.Context, reference string) error {
	raw, err := l.search(ctx, ocispec.ImageLayoutFile, maxMarker)
	if err != nil {
		return err
	}
	var marker ocispec.ImageLayout
	if err := json.Unmarshal(raw, &marker); err != nil || marker.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: its version is not %s", ErrLayout, ocispec.ImageLayoutVersion)
	}
	raw, err = l.search(ctx, ocispec.ImageIndexFile, oci.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrLayout, errors.New(err.Error())) // not as if there were no layout
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if l.index, err = oci.ParseIndex(ocispec.MediaTypeImageIndex, raw); err != nil {
		return err
	}
	l.reference = reference
	if reference == "" {
		if l.reference, err = l.only(ctx); err != nil {
			return err
		}
	}
	_, err = l.find(ctx, l.reference)
	return err
}

// only returns the digest of the layout's only image. Signatures and other
// things about an image are not counted.
func (l *Layout) only(ctx context.Context) (string, error) {
	found := make(map[digest.Digest]bool)
	for _, d := range l.index.Manifests {
		if found[d.Digest] || isAttachmentTag(d.Annotations[ocispec.AnnotationRefName]) || isSaved(d, savedSignatures, savedAttestations) {
			continue
		}
		about, err := l.subject(ctx, d)
		if err != nil {
			return "", err
		}
		if about.of == "" {
			found[d.Digest] = true
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%w: it has %d images: name one", ErrLayout, len(found))
	}
	for d := range found {
		return d.String(), nil
	}
	return "", nil
}

// isAttachmentTag recognises "sha256-HEX", with or without a suffix: where
// signatures and referrers are, if the registry has no list of them.
func isAttachmentTag(tag string) bool {
	rest, ok := strings.CutPrefix(tag, "sha256-")
	return ok && len(rest) >= 64
}

// subject reads what a manifest is about, once. A broken manifest is about
// nothing. The error is that the search has to end, or [syscall.EIO]: the medium may
// answer the next time.
func (l *Layout) subject(ctx context.Context, d ocispec.Descriptor) (subject, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.looked[d.Digest]; ok {
		return s, nil
	}
	s, err := l.readSubject(ctx, d)
	if errors.Is(err, survey.ErrTooMuch) || errors.Is(err, syscall.EIO) || ctx.Err() != nil {
		return s, err
	}
	l.looked[d.Digest] = s
	return s, nil
}

func (l *Layout) readSubject(ctx context.Context, d ocispec.Descriptor) (subject, error) {
	if d.Size > oci.MaxManifest {
		return subject{}, fmt.Errorf("%w: manifest of %d bytes", ErrLayout, d.Size)
	}
	if err := l.budget.Spend(ctx, 0, d.Size); err != nil {
		return subject{}, err
	}
	raw, err := l.blob(ctx, d, oci.MaxManifest)
	if err != nil {
		return subject{}, err
	}
	var m struct {
		ArtifactType string `json:"artifactType"`
		Config       struct {
			MediaType string `json:"mediaType"`
		} `json:"config"`
		Subject struct {
			Digest digest.Digest `json:"digest"`
		} `json:"subject"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := oci.Unmarshal(raw, &m); err != nil {
		return subject{}, err
	}
	if m.Subject.Digest.Validate() != nil {
		return subject{}, nil
	}
	kind := cmp.Or(m.ArtifactType, m.Config.MediaType)
	says := m.Annotations[cosign.PredicateAnnotation]
	if len(kind) > maxKind || len(says) > maxKind {
		return subject{}, fmt.Errorf("%w: artifact type or annotation of %d bytes", ErrLayout, max(len(kind), len(says)))
	}
	return subject{m.Subject.Digest, kind, says}, nil
}

// find returns the descriptor of a tag or digest. A digest that the
// index does not list may still be that of a blob.
func (l *Layout) find(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	d := digest.Digest(reference)
	isDigest := d.Validate() == nil
	for _, m := range l.index.Manifests {
		if isDigest && m.Digest == d || !isDigest && m.Annotations[ocispec.AnnotationRefName] == reference {
			return m, nil
		}
	}
	if isDigest {
		return l.guess(ctx, d)
	}
	if m, ok := l.saved(reference); ok {
		return m, nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s: %w", reference, oci.ErrNotFound)
}

// guess makes a descriptor for a manifest that an index in a blob names.
func (l *Layout) guess(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if d.Algorithm() != digest.SHA256 {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", d, oci.ErrNotFound)
	}
	s, err := l.files.open(blobName(d))
	if err != nil {
		return ocispec.Descriptor{}, notFound(d.String(), err)
	}
	defer s.Close()
	desc := ocispec.Descriptor{Digest: d, Size: s.Size()}
	raw, err := l.blob(ctx, desc, oci.MaxManifest)
	if err != nil {
		return desc, err
	}
	var m struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := oci.Unmarshal(raw, &m); err != nil {
		return desc, fmt.Errorf("%s: %w: %w", d, ErrLayout, err)
	}
	switch desc.MediaType = m.MediaType; {
	case m.MediaType != "":
	case m.Manifests != nil:
		desc.MediaType = ocispec.MediaTypeImageIndex
	default:
		desc.MediaType = ocispec.MediaTypeImageManifest
	}
	return desc, nil
}

func blobName(d digest.Digest) string { return blobDir + d.Encoded() }

func notFound(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, oci.ErrNotFound)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// search reads a whole file of at most limit bytes out of the medium's budget.
func (l *Layout) search(ctx context.Context, name string, limit int64) ([]byte, error) {
	s, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.Size() <= limit {
		if err := l.budget.Spend(ctx, 0, s.Size()); err != nil {
			return nil, err
		}
	}
	return readAll(ctx, s, name, limit)
}

// readAll returns the whole of a file of at most limit bytes.
func readAll(ctx context.Context, s *section, name string, limit int64) ([]byte, error) {
	if s.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrLayout, name, s.Size(), limit)
	}
	raw := make([]byte, s.Size())
	if _, err := io.ReadFull(&contextReader{ctx, s, s}, raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return raw, nil
}

// blob returns a small verified blob.
func (l *Layout) blob(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%w: digest %.80q", ErrLayout, d.Digest)
	}
	name := blobName(d.Digest)
	s, err := l.files.open(name)
	if err != nil {
		return nil, notFound(d.Digest.String(), err)
	}
	defer s.Close()
	if s.Size() <= limit && s.Size() != d.Size {
		return nil, fmt.Errorf("%s: %w", d.Digest, fetch.ErrDigest)
	}
	raw, err := readAll(ctx, s, name, limit)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(raw) != d.Digest {
		return nil, fmt.Errorf("%s: %w", d.Digest, fetch.ErrDigest)
	}
	return raw, nil
}

// Manifest implements [oci.Repository].
func (l *Layout) Manifest(ctx context.Context, reference string) (ocispec.Descriptor, []byte, error) {
	d, err := l.find(ctx, reference)
	if err != nil {
		return d, nil, err
	}
	raw, err := l.blob(ctx, d, oci.MaxManifest)
	return d, raw, err
}

// Bytes implements [oci.Repository].
func (l *Layout) Bytes(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	return l.blob(ctx, d, limit)
}

// Referrers implements [oci.Repository].
func (l *Layout) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) iter.Seq2[ocispec.Descriptor, error] {
	return func(yield func(ocispec.Descriptor, error) bool) {
		found, err := l.referrers(ctx, subject, artifactType)
		for _, d := range found {
			if !yield(d, nil) {
				return
			}
		}
		if err != nil {
			yield(ocispec.Descriptor{}, err)
		}
	}
}

// referrers reads every manifest in the index, and the index of referrers under
// the tag that stands for a registry's list. With an error come those that were
// found before it.
func (l *Layout) referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	list := l.index.Manifests
	if d, err := l.find(ctx, "sha256-"+subject.Digest.Encoded()); err == nil {
		raw, err := l.blob(ctx, d, oci.MaxManifest)
		if err != nil {
			return nil, err
		}
		x, err := oci.ParseIndex(d.MediaType, raw)
		if err != nil {
			return nil, err
		}
		list = append(list[:len(list):len(list)], x.Manifests...)
	}
	loose, err := l.loose(ctx)
	if err != nil {
		return nil, err
	}
	list = append(list[:len(list):len(list)], loose...)
	var found []ocispec.Descriptor
	var failed error
	seen := make(map[digest.Digest]bool)
	for _, d := range list {
		if seen[d.Digest] || d.MediaType == ocispec.MediaTypeImageIndex {
			continue
		}
		seen[d.Digest] = true
		about, err := l.subject(ctx, d)
		if errors.Is(err, syscall.EIO) {
			failed = err // must not hide the others either
			continue
		}
		if err != nil {
			return found, err
		}
		// A broken manifest is not a referrer, and must not hide the others.
		if about.of != subject.Digest || artifactType != "" && about.kind != artifactType {
			continue
		}
		d.ArtifactType = about.kind
		if about.says != "" { // as a registry's list has it
			d.Annotations = map[string]string{cosign.PredicateAnnotation: about.says}
		}
		found = append(found, d)
	}
	return found, failed
}

// Mirror implements [oci.Place].
func (l *Layout) Mirror() fetch.Mirror { return mirror{l} }

type mirror struct{ *Layout }

// Get answers as a server of the layout's blobs would.
func (m mirror) Get(ctx context.Context, b fetch.Blob, byteRange string) (*http.Response, error) {
	s, err := m.files.open(blobName(b.Digest))
	if errors.Is(err, syscall.EIO) {
		return nil, err // may pass
	}
	if err != nil {
		return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody}, nil
	}
	if s.Size() != b.Size {
		return &http.Response{StatusCode: http.StatusGone, Header: http.Header{}, Body: s}, nil
	}
	var first, last int64
	if _, err := fmt.Sscanf(byteRange, "bytes=%d-%d", &first, &last); err != nil || first > last || last >= s.Size() {
		return &http.Response{StatusCode: http.StatusBadRequest, Header: http.Header{}, Body: s}, nil
	}
	body := &contextReader{ctx, io.NewSectionReader(s, first, last-first+1), s}
	return &http.Response{
		StatusCode:    http.StatusPartialContent,
		Header:        http.Header{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", first, last, s.Size())}},
		ContentLength: last - first + 1,
		Body:          body,
	}, nil
}

// contextReader ends when the context does, as the body of a response would.
type contextReader struct {
	ctx context.Context
	io.Reader
	io.Closer
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
