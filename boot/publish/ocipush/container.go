package ocipush

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/image/unpack"
	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/measure/floor"
)

// maxRoot bounds the root of a container image, in bytes.
const maxRoot = 1 << 40

// ErrVersion says that an image cannot have the version that it was to get.
var ErrVersion = errors.New("image version")

// Container publishes a container image that another tool has made: it notes in
// its manifest, or in each of an index, how large the root is when a loader has
// unpacked it (osimage.AnnotationUnpacked), so that a machine with too little
// memory refuses the image before it fetches it, and the version, if it is to get
// one (osimage.AnnotationVersion). That gives the image another digest, and leaves
// signatures of the old one behind. An image that has the annotations already is
// copied as it is, and so are those in an index that no loader boots.
//
// Version nil takes the image's own. Otherwise the image has that version
// afterwards, 0 being none, or the error is [ErrVersion]: what is released under
// one version is not published under another.
func Container(ctx context.Context, src *Source, dst *Target, version *uint64) (ocispec.Descriptor, error) {
	if src.Reference == "" {
		return ocispec.Descriptor{}, errors.New("name a tag or digest of the container image")
	}
	root, err := src.Resolve(ctx, src.Reference)
	if err != nil {
		return root, fmt.Errorf("finding %s: %w", src.Reference, err)
	}
	n := &noter{src: src, dst: dst, version: version}
	noted, err := n.note(ctx, root)
	if err == nil && version != nil && *version > 0 && n.versioned == 0 {
		err = fmt.Errorf("%w: nothing in it can have one: it takes an OCI manifest (skopeo copy --format oci makes one) for linux/amd64 or linux/arm64", ErrVersion)
	}
	if err != nil {
		return root, fmt.Errorf("container image %s: %w", root.Digest, err)
	}
	if noted.Digest == root.Digest {
		return Copy(ctx, src, dst, CopyOptions{})
	}
	if dst.Reference == "" {
		return noted, nil
	}
	return noted, dst.Tag(ctx, noted, dst.Reference)
}

// A noter writes annotations into the manifests of an image.
type noter struct {
	src       *Source
	dst       *Target
	version   *uint64
	versioned int  // manifests that have the version
	inIndex   bool // it is one of several images
}

// note pushes the manifest or index d with the annotations, and all that it
// needs. It returns d if there is nothing to be noted; then nothing was pushed.
func (n *noter) note(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	if d.Size > oci.MaxManifest {
		return d, fmt.Errorf("manifest of %d bytes", d.Size)
	}
	switch d.MediaType {
	case ocispec.MediaTypeImageIndex:
		return n.index(ctx, d)
	case ocispec.MediaTypeImageManifest:
		return n.manifest(ctx, d)
	}
	return d, nil // Docker's own have no annotations
}

func (n *noter) index(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	raw, err := content.FetchAll(ctx, n.src, d)
	if err != nil {
		return d, err
	}
	x, err := oci.ParseIndex(d.MediaType, raw)
	if err != nil {
		return d, err
	}
	n.inIndex = true
	changed := false
	for i, m := range x.Manifests {
		noted, err := n.note(ctx, m)
		if err != nil {
			return d, fmt.Errorf("%s: %w", m.Digest, err)
		}
		if noted.Digest == m.Digest {
			if err := oras.CopyGraph(ctx, n.src, n.dst, m, oras.DefaultCopyGraphOptions); err != nil {
				return d, err
			}
			continue
		}
		changed = true
		x.Manifests[i].Digest, x.Manifests[i].Size = noted.Digest, noted.Size
	}
	if !changed {
		return d, nil
	}
	return pushJSON(ctx, n.dst, d.MediaType, x)
}

func (n *noter) manifest(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	raw, err := content.FetchAll(ctx, n.src, d)
	if err != nil {
		return d, err
	}
	m, err := oci.ParseManifest(d.MediaType, raw)
	if err != nil {
		return d, err
	}
	if m.ArtifactType != "" || m.Config.MediaType != ocispec.MediaTypeImageConfig {
		return d, nil
	}
	config, arch, err := n.config(ctx, m.Config)
	if err != nil {
		return d, err
	}
	if _, err := rootinit.Program(arch); err != nil {
		if !n.inIndex {
			return d, fmt.Errorf("its config: %w", err)
		}
		return d, nil // no loader unpacks it; it may be a builder's attestation
	}
	unversioned, err := n.needsVersion(m)
	if err != nil {
		return d, err
	}
	_, sized := m.Annotations[osimage.AnnotationUnpacked]
	if sized && !unversioned {
		return d, nil
	}
	if err := push(ctx, n.dst, m.Config, bytes.NewReader(config)); err != nil {
		return d, err
	}
	size, err := copyLayers(ctx, n.src, n.dst, m.Layers, arch)
	if err != nil {
		return d, err
	}
	if m.Annotations == nil {
		m.Annotations = make(map[string]string)
	}
	if !sized {
		m.Annotations[osimage.AnnotationUnpacked] = strconv.FormatInt(size, 10)
	}
	if unversioned {
		m.Annotations[osimage.AnnotationVersion] = osimage.FormatVersion(*n.version)
	}
	return pushJSON(ctx, n.dst, d.MediaType, m)
}

// needsVersion tells whether m is to get a version. One that it has stays.
func (n *noter) needsVersion(m ocispec.Manifest) (bool, error) {
	have, err := osimage.VersionOf(m.Annotations)
	if err == nil && n.version != nil {
		err = floor.CheckPublished(*n.version)
	}
	if err == nil {
		err = floor.CheckPublished(have)
	}
	if err != nil {
		return false, err
	}
	if n.version == nil || have == *n.version {
		n.versioned++
		return false, nil
	}
	if have != 0 {
		return false, fmt.Errorf("%w: it has version %d already, not %d; build it anew to release it as another", ErrVersion, have, *n.version)
	}
	n.versioned++
	return true, nil
}

func pushJSON(ctx context.Context, dst *Target, mediaType string, v any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := pushBytes(ctx, dst, mediaType, raw)
	if err != nil {
		return d, fmt.Errorf("pushing the manifest: %w", err)
	}
	return d, nil
}

// config reads an image's config and its architecture.
func (n *noter) config(ctx context.Context, d ocispec.Descriptor) (raw []byte, arch string, err error) {
	if d.Size > oci.MaxManifest {
		return nil, "", fmt.Errorf("config of %d bytes", d.Size)
	}
	if raw, err = content.FetchAll(ctx, n.src, d); err != nil {
		return nil, "", err
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, "", fmt.Errorf("config: %w", err)
	}
	return raw, config.Architecture, nil
}

// copyLayers copies an image's layers and returns the size in bytes of the root
// that a loader makes of them.
func copyLayers(ctx context.Context, src *Source, dst *Target, layers []ocispec.Descriptor, arch string) (int64, error) {
	dir, err := os.MkdirTemp("", "sealboot-publish-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	dst.tally.expect(layers...)
	var blobs []unpack.Layer
	for _, d := range layers {
		f, err := spool(ctx, src, d, dir)
		if err != nil {
			return 0, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		defer f.Close()
		if err := push(ctx, dst, d, io.NewSectionReader(f, 0, d.Size)); err != nil {
			return 0, fmt.Errorf("pushing layer %s: %w", d.Digest, err)
		}
		blobs = append(blobs, unpack.Layer{Blob: f, Size: d.Size})
	}
	stats, err := unpack.RAMRoot(ctx, &nowhere{}, blobs, unpack.Options{MaxBytes: maxRoot, Arch: arch})
	if err != nil {
		return 0, err
	}
	return stats.Size, nil
}

// spool brings a layer into a file in dir, since layers are read several times.
func spool(ctx context.Context, src *Source, d ocispec.Descriptor, dir string) (_ *os.File, err error) {
	r, err := src.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return nil, err
	}
	verify := digest.SHA256.Digester()
	n, err := io.Copy(io.MultiWriter(f, verify.Hash()), io.LimitReader(r, d.Size+1))
	if err == nil && (n != d.Size || verify.Digest() != d.Digest) {
		err = fmt.Errorf("its %d bytes do not have that digest", n)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// nowhere takes an archive of which only the size matters.
type nowhere struct{ pos int64 }

func (n *nowhere) Write(b []byte) (int, error)            { n.pos += int64(len(b)); return len(b), nil }
func (n *nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (n *nowhere) Truncate(int64) error                   { return nil }
func (n *nowhere) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		n.pos = 0
	}
	n.pos += off
	return n.pos, nil
}
