package ocipush

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/measure/floor"
)

// ReferenceValuesType is the artifact type of a referrer that holds an image's
// reference values.
const ReferenceValuesType = "application/vnd.sealboot.reference-values.v1+json"

// Artifact is an image that is no container image, as files. Exactly one of
// Kernel, UKI and Disk is needed; a disk may come with the kernel to start.
type Artifact struct {
	Kernel, Initrd, DTB string // paths
	UKI, Disk           string
	Verity              string  // root hash (hex) of a disk with dm-verity
	Cmdline             *string // nil means none is given
	Annotations         map[string]string
}

type layer struct{ path, mediaType string }

// layers says what the manifest will hold, in the order of the boot descriptor.
func (a Artifact) layers() (kind string, ls []layer, err error) {
	switch {
	case a.Verity != "" && a.Disk == "":
		return "", nil, errors.New("a verity root hash is a disk's: name one")
	case a.UKI != "" && (a.Kernel != "" || a.Initrd != "" || a.DTB != "" || a.Disk != ""):
		return "", nil, errors.New("a UKI is an image by itself: give no other file")
	case a.UKI != "":
		return osimage.ArtifactUKI, []layer{{a.UKI, osimage.MediaTypeUKI}}, nil
	case a.Kernel == "" && (a.Initrd != "" || a.DTB != ""):
		return "", nil, errors.New("initrd and device tree need a kernel")
	case a.Disk != "":
		mediaType, err := diskType(a.Disk)
		if err != nil {
			return "", nil, err
		}
		kind, ls = osimage.ArtifactDisk, []layer{{a.Disk, mediaType}}
	case a.Kernel != "":
		kind = osimage.ArtifactLinux
	default:
		return "", nil, errors.New("no image given: name a kernel, a UKI, a disk or a container image (--kernel, --uki, --disk, --container)")
	}
	for _, l := range []layer{
		{a.Kernel, osimage.MediaTypeKernel}, {a.Initrd, osimage.MediaTypeInitrd}, {a.DTB, osimage.MediaTypeDTB},
	} {
		if l.path != "" {
			ls = append(ls, l)
		}
	}
	return kind, ls, nil
}

// diskType tells a disk's format and compression by its first bytes.
func diskType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 6)
	if _, err := io.ReadFull(f, magic); err != nil {
		return "", fmt.Errorf("disk %s: %w", path, err)
	}
	for prefix, mediaType := range map[string]string{
		"QFI\xfb":          osimage.MediaTypeQcow2,
		"\x1f\x8b":         osimage.MediaTypeRaw + "+gzip",
		"\x28\xb5\x2f\xfd": osimage.MediaTypeRaw + "+zstd",
		"\xfd7zXZ\x00":     osimage.MediaTypeRaw + "+xz",
	} {
		if bytes.HasPrefix(magic, []byte(prefix)) {
			return mediaType, nil
		}
	}
	return osimage.MediaTypeRaw, nil
}

// Push makes the artifact's manifest and pushes it with its files. The same
// files give the same digest.
func (a Artifact) Push(ctx context.Context, dst content.Storage) (ocispec.Descriptor, error) {
	kind, layers, err := a.layers()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := a.check(); err != nil {
		return ocispec.Descriptor{}, err
	}
	var aboutDisk map[string]string
	if a.Disk != "" {
		if aboutDisk, err = a.describeDisk(ctx, layers[0].mediaType); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	m := ocispec.Manifest{ArtifactType: kind, Annotations: a.Annotations}
	for _, l := range layers {
		d, err := describeFile(l)
		if err != nil {
			return d, err
		}
		if l.path == a.Disk {
			maps.Copy(d.Annotations, aboutDisk)
		}
		m.Layers = append(m.Layers, d)
	}
	tallyOf(dst).expect(m.Layers...)
	for i, d := range m.Layers {
		if err := pushFile(ctx, dst, d, layers[i].path); err != nil {
			return d, fmt.Errorf("pushing %s: %w", layers[i].path, err)
		}
	}
	if a.Cmdline != nil {
		d, err := pushBytes(ctx, dst, osimage.MediaTypeCmdline, []byte(*a.Cmdline))
		if err != nil {
			return d, fmt.Errorf("pushing the command line: %w", err)
		}
		m.Layers = append(m.Layers, d)
	}
	return pushManifest(ctx, dst, m)
}

// check refuses what no loader would boot, before anything is pushed.
func (a Artifact) check() error {
	version, err := osimage.VersionOf(a.Annotations)
	if err == nil {
		err = floor.CheckPublished(version)
	}
	if err != nil {
		return err
	}
	for path, check := range map[string]func(io.ReaderAt, int64) error{
		a.Kernel: func(r io.ReaderAt, size int64) error { return kexec.CheckFormat(r, size, "") },
		a.UKI: func(r io.ReaderAt, size int64) error {
			pe, err := uki.Parse(r, size)
			if err != nil {
				return err
			}
			linux, ok := pe.Section(".linux")
			if !ok {
				return errors.New("a PE file without a .linux section is no UKI")
			}
			return kexec.CheckFormat(linux.Reader(r), linux.Size, "")
		},
	} {
		if path == "" {
			continue
		}
		if err := checkFile(path, check); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func checkFile(path string, check func(io.ReaderAt, int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return check(f, info.Size())
}

// describeDisk makes the annotations of the disk's layer.
func (a Artifact) describeDisk(ctx context.Context, mediaType string) (map[string]string, error) {
	f, err := os.Open(a.Disk)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	about, err := osimage.DescribeDisk(ctx, mediaType, f)
	if err == nil && a.Verity != "" {
		about[osimage.AnnotationVerity] = a.Verity
	}
	return about, err
}

// AttachReferenceValues makes the file at path a referrer of image.
func AttachReferenceValues(ctx context.Context, dst content.Storage, image ocispec.Descriptor, path string) (ocispec.Descriptor, error) {
	d, err := describeFile(layer{path, ReferenceValuesType})
	if err == nil {
		err = pushFile(ctx, dst, d, path)
	}
	if err != nil {
		return d, fmt.Errorf("pushing %s: %w", path, err)
	}
	return pushManifest(ctx, dst, ocispec.Manifest{
		ArtifactType: ReferenceValuesType,
		Layers:       []ocispec.Descriptor{d},
		Subject:      &ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size},
	})
}

// pushManifest completes m, with an empty config if it has none, and pushes it.
func pushManifest(ctx context.Context, dst content.Storage, m ocispec.Manifest) (ocispec.Descriptor, error) {
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	m.MediaType = ocispec.MediaTypeImageManifest
	if m.Config.MediaType == "" {
		d, err := pushBytes(ctx, dst, ocispec.MediaTypeEmptyJSON, []byte("{}"))
		if err != nil {
			return d, err
		}
		m.Config = d
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := pushBytes(ctx, dst, m.MediaType, raw)
	d.ArtifactType = m.ArtifactType
	if err != nil {
		return d, fmt.Errorf("pushing the manifest: %w", err)
	}
	return d, nil
}

func pushBytes(ctx context.Context, dst content.Storage, mediaType string, b []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, push(ctx, dst, d, bytes.NewReader(b))
}

// describeFile makes a layer's descriptor of its file.
func describeFile(l layer) (d ocispec.Descriptor, err error) {
	f, err := os.Open(l.path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return d, err
	}
	return ocispec.Descriptor{
		MediaType:   l.mediaType,
		Digest:      digest.NewDigest(digest.SHA256, h),
		Size:        size,
		Annotations: map[string]string{ocispec.AnnotationTitle: filepath.Base(l.path)},
	}, nil
}

func pushFile(ctx context.Context, dst content.Storage, d ocispec.Descriptor, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return push(ctx, dst, d, f)
}

// push pushes what dst does not have.
func push(ctx context.Context, dst content.Storage, d ocispec.Descriptor, r io.Reader) error {
	if ok, err := dst.Exists(ctx, d); err != nil || ok {
		tallyOf(dst).settle(d, 0)
		return err
	}
	if err := dst.Push(ctx, d, r); !errors.Is(err, errdef.ErrAlreadyExists) {
		return err
	}
	return nil
}

// tallyOf returns what counts the pushes to dst, or nil.
func tallyOf(dst content.Storage) *tally {
	if t, ok := dst.(*Target); ok {
		return t.tally
	}
	return nil
}
