package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/measure/jsonlimit"
)

const (
	// MaxManifest is the size limit of a manifest or index, in bytes. It is what
	// the distribution specification asks registries to accept at least.
	MaxManifest = 4 << 20

	maxDescriptors = 4096 // in one manifest or index
	maxDepth       = 3    // of indexes in indexes
	maxTold        = 16   // platforms that an error tells of

	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

var (
	// ErrManifest is a manifest or index that is malformed or too large.
	ErrManifest = errors.New("unusable manifest")
	// ErrPlatform is an index without an image for this machine.
	ErrPlatform = errors.New("no image for this platform")
	// ErrNotAdmitted is an image that a signature policy refused.
	ErrNotAdmitted = errors.New("image is not admitted")
	// ErrNotFound is content that a repository does not have.
	ErrNotFound = errors.New("not found")
)

// Repository reads the small things of one repository. What it returns was
// checked against its digest and is not larger than it says.
type Repository interface {
	// Manifest returns the manifest or index that a tag or digest names; at
	// most MaxManifest bytes.
	Manifest(ctx context.Context, reference string) (ocispec.Descriptor, []byte, error)
	// Referrers are the manifests whose subject is the given one, those of one
	// artifact type if that is not empty. There may be many, so they come as they
	// are read. An error is the last of the sequence.
	Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) iter.Seq2[ocispec.Descriptor, error]
	// Bytes returns a blob of at most limit bytes.
	Bytes(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error)
}

// Resolved is an image that was found.
type Resolved struct {
	Descriptor ocispec.Descriptor // of the platform manifest
	Manifest   []byte             // its bytes
	Index      digest.Digest      // of the outermost index it was found in; empty if none

	parsed ocispec.Manifest
}

// Contents are the config and the layers, in that order.
func (r *Resolved) Contents() []ocispec.Descriptor {
	return append([]ocispec.Descriptor{r.parsed.Config}, r.parsed.Layers...)
}

// Resolve finds the manifest that reference names in repo, going through
// indexes to the first image for platform.
func Resolve(ctx context.Context, repo Repository, reference string, platform ocispec.Platform) (*Resolved, error) {
	res := &Resolved{}
	for range maxDepth + 1 {
		desc, raw, err := repo.Manifest(ctx, reference)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", reference, err)
		}
		if !IsIndex(desc.MediaType) {
			res.Descriptor, res.Manifest = desc, raw
			if res.parsed, err = ParseManifest(desc.MediaType, raw); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
			}
			return res, nil
		}
		next, err := pickPlatform(desc.MediaType, raw, platform)
		if err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		if res.Index == "" {
			res.Index = desc.Digest
		}
		reference = next.Digest.String()
	}
	return nil, fmt.Errorf("index %s: %w: more than %d indexes in each other", res.Index, ErrManifest, maxDepth)
}

// IsIndex tells an index from an image manifest by its media type.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

// ParseManifest checks an image manifest: its type, and that every descriptor
// in it has a sha256 digest and a size that can be added up.
func ParseManifest(mediaType string, raw []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if mediaType != ocispec.MediaTypeImageManifest && mediaType != dockerManifest {
		return m, fmt.Errorf("%w: media type %.80q", ErrManifest, mediaType)
	}
	if err := parse(raw, &m); err != nil {
		return m, err
	}
	// A body that claims to be something else has been read as the wrong thing
	// (CVE-2021-41190).
	if err := checkType(m.Versioned, m.MediaType, mediaType); err != nil {
		return m, err
	}
	return m, checkDescriptors(append([]ocispec.Descriptor{m.Config}, m.Layers...))
}

// ParseIndex checks an index in the same way.
func ParseIndex(mediaType string, raw []byte) (ocispec.Index, error) {
	var x ocispec.Index
	if err := parse(raw, &x); err != nil {
		return x, err
	}
	if err := checkType(x.Versioned, x.MediaType, mediaType); err != nil {
		return x, err
	}
	return x, checkDescriptors(x.Manifests)
}

// limits bounds what is built from the JSON of a manifest or an index. A
// descriptor with platform and annotations has some 30 values. A few descriptors
// too many still decode, since checkDescriptors has the better message.
func limits() jsonlimit.Limits {
	return jsonlimit.Limits{Depth: 16, Values: 1 << 17, Items: 2 * maxDescriptors}
}

// Unmarshal decodes a part of a manifest or an index that is not checked
// otherwise, within the same limits. The error is [ErrManifest].
func Unmarshal(raw []byte, v any) error {
	if err := limits().Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return nil
}

func parse(raw []byte, v any) error {
	if len(raw) > MaxManifest {
		return fmt.Errorf("%w: %d bytes, more than %d", ErrManifest, len(raw), MaxManifest)
	}
	var both struct {
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := errors.Join(Unmarshal(raw, &both), Unmarshal(raw, v)); err != nil {
		return err
	}
	if both.Manifests != nil && both.Layers != nil {
		return fmt.Errorf("%w: both an index and an image", ErrManifest)
	}
	return nil
}

func checkType(v specs.Versioned, inside, outside string) error {
	if v.SchemaVersion != 2 {
		return fmt.Errorf("%w: schema version %d", ErrManifest, v.SchemaVersion)
	}
	if inside != "" && inside != outside {
		return fmt.Errorf("%w: it says that it is %.80q, and was served as %.80q", ErrManifest, inside, outside)
	}
	return nil
}

func checkDescriptors(ds []ocispec.Descriptor) error {
	if len(ds) > maxDescriptors {
		return fmt.Errorf("%w: %d descriptors, more than %d", ErrManifest, len(ds), maxDescriptors)
	}
	var sum int64
	for _, d := range ds {
		if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("%w: digest %.80q is not a sha256", ErrManifest, d.Digest)
		}
		if d.Size < 0 || sum+d.Size < sum {
			return fmt.Errorf("%w: size %d of %s", ErrManifest, d.Size, d.Digest)
		}
		sum += d.Size
	}
	return nil
}

// pickPlatform returns the first manifest of an index that is for want.
func pickPlatform(mediaType string, raw []byte, want ocispec.Platform) (ocispec.Descriptor, error) {
	var have []string
	x, err := ParseIndex(mediaType, raw)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range x.Manifests {
		if d.Platform == nil {
			if len(x.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if matches(*d.Platform, want) {
			return d, nil
		}
		have = append(have, platformString(*d.Platform))
	}
	slices.Sort(have)
	have = slices.Compact(have)
	return ocispec.Descriptor{}, fmt.Errorf("%w: it has %s, wanted %s",
		ErrPlatform, strings.Join(have[:min(len(have), maxTold)], ", "), platformString(want))
}

// matches compares platforms; a variant matters only if both name one.
func matches(have, want ocispec.Platform) bool {
	return have.OS == want.OS && have.Architecture == want.Architecture &&
		(have.Variant == "" || want.Variant == "" || have.Variant == want.Variant)
}

func platformString(p ocispec.Platform) string {
	return fmt.Sprintf("%.80s", strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
}

// ThisPlatform is the platform that the program was built for.
func ThisPlatform() ocispec.Platform {
	return ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}
