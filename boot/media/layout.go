package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/fetch"
	"github.com/sealboot/sealboot/boot/oci"
)

// maxScan bounds what is read in search of referrers, in bytes.
const maxScan = 64 << 20

// Layout is one OCI image layout.
type Layout struct {
	name      string
	reference string
	files     files
	index     ocispec.Index
}

var _ oci.Place = (*Layout)(nil)

// String is where the layout is.
func (l *Layout) String() string { return l.name }

// Reference is the tag or digest that it was opened for.
func (l *Layout) Reference() string { return l.reference }

// Close ends the use of the layout; files that were handed out stay open.
func (l *Layout) Close() error { return l.files.Close() }

// load reads the index and finds reference in it.
func (l *Layout) load(reference string) error {
	raw, err := l.read(ocispec.ImageLayoutFile, maxMarker)
	if err != nil {
		return err
	}
	var marker ocispec.ImageLayout
	if err := json.Unmarshal(raw, &marker); err != nil || marker.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: its version is not %s", ErrLayout, ocispec.ImageLayoutVersion)
	}
	raw, err = l.read(ocispec.ImageIndexFile, oci.MaxManifest)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLayout, errors.New(err.Error())) // not as if there were no layout
	}
	if l.index, err = oci.ParseIndex(ocispec.MediaTypeImageIndex, raw); err != nil {
		return err
	}
	l.reference = reference
	if reference == "" {
		if l.reference, err = l.only(); err != nil {
			return err
		}
	}
	_, err = l.find(l.reference)
	return err
}

// only returns the digest of the layout's only image. Signatures and other
// things about an image are not counted.
func (l *Layout) only() (string, error) {
	found := make(map[digest.Digest]bool)
	for _, d := range l.index.Manifests {
		if !isAttachmentTag(d.Annotations[ocispec.AnnotationRefName]) && !l.hasSubject(d) {
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

func (l *Layout) hasSubject(d ocispec.Descriptor) bool {
	subject, _, err := l.subject(d)
	return err == nil && subject != ""
}

// subject reads a manifest's subject and artifact type.
func (l *Layout) subject(d ocispec.Descriptor) (digest.Digest, string, error) {
	raw, err := l.blob(d, oci.MaxManifest)
	if err != nil {
		return "", "", err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if m.Subject == nil {
		return "", "", nil
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	return m.Subject.Digest, m.ArtifactType, nil
}

// find returns the descriptor of a tag or digest. A digest that the
// index does not list may still be that of a blob.
func (l *Layout) find(reference string) (ocispec.Descriptor, error) {
	d := digest.Digest(reference)
	isDigest := d.Validate() == nil
	for _, m := range l.index.Manifests {
		if isDigest && m.Digest == d || !isDigest && m.Annotations[ocispec.AnnotationRefName] == reference {
			return m, nil
		}
	}
	if isDigest {
		return l.guess(d)
	}
	return ocispec.Descriptor{}, fmt.Errorf("%s: %w", reference, oci.ErrNotFound)
}

// guess makes a descriptor for a manifest that an index in a blob names.
func (l *Layout) guess(d digest.Digest) (ocispec.Descriptor, error) {
	if d.Algorithm() != digest.SHA256 {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", d, oci.ErrNotFound)
	}
	s, err := l.files.open(blobName(d))
	if err != nil {
		return ocispec.Descriptor{}, notFound(d.String(), err)
	}
	defer s.Close()
	desc := ocispec.Descriptor{Digest: d, Size: s.Size()}
	raw, err := l.blob(desc, oci.MaxManifest)
	if err != nil {
		return desc, err
	}
	var m struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
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

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func notFound(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, oci.ErrNotFound)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// read returns a whole file of at most limit bytes.
func (l *Layout) read(name string, limit int64) ([]byte, error) {
	s, err := l.files.open(name)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrLayout, name, s.Size(), limit)
	}
	raw := make([]byte, s.Size())
	if _, err := io.ReadFull(s, raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return raw, nil
}

// blob returns a small verified blob.
func (l *Layout) blob(d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%w: digest %q", ErrLayout, d.Digest)
	}
	raw, err := l.read(blobName(d.Digest), limit)
	if err != nil {
		return nil, notFound(d.Digest.String(), err)
	}
	if int64(len(raw)) != d.Size || digest.FromBytes(raw) != d.Digest {
		return nil, fmt.Errorf("%s: %w", d.Digest, fetch.ErrDigest)
	}
	return raw, nil
}

// Manifest implements [oci.Repository].
func (l *Layout) Manifest(_ context.Context, reference string) (ocispec.Descriptor, []byte, error) {
	d, err := l.find(reference)
	if err != nil {
		return d, nil, err
	}
	raw, err := l.blob(d, oci.MaxManifest)
	return d, raw, err
}

// Bytes implements [oci.Repository].
func (l *Layout) Bytes(_ context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	return l.blob(d, limit)
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
func (l *Layout) referrers(_ context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	list := l.index.Manifests
	if d, err := l.find("sha256-" + subject.Digest.Encoded()); err == nil {
		raw, err := l.blob(d, oci.MaxManifest)
		if err != nil {
			return nil, err
		}
		x, err := oci.ParseIndex(d.MediaType, raw)
		if err != nil {
			return nil, err
		}
		list = append(list[:len(list):len(list)], x.Manifests...)
	}
	var found []ocispec.Descriptor
	var scanned int64
	seen := make(map[digest.Digest]bool)
	for _, d := range list {
		if seen[d.Digest] || d.MediaType == ocispec.MediaTypeImageIndex {
			continue
		}
		seen[d.Digest] = true
		if scanned += d.Size; scanned > maxScan {
			return found, fmt.Errorf("%w: more than %d bytes of manifests", ErrLayout, maxScan)
		}
		of, kind, err := l.subject(d)
		// A broken manifest is not a referrer, and must not hide the others.
		if err != nil || of != subject.Digest || artifactType != "" && kind != artifactType {
			continue
		}
		d.ArtifactType = kind
		found = append(found, d)
	}
	return found, nil
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
