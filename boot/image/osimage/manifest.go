package osimage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/jsonlimit"
)

const (
	maxManifest = 4 << 20 // bytes, as registries accept
	maxConfig   = 4 << 20
	maxLayers   = 400
	maxBlob     = 1 << 44 // bytes; keeps sums of sizes from overflowing
)

// FromManifest makes an image of an OCI or Docker image manifest. An index is
// already resolved to the manifest of the platform, and its digest verified,
// by the source. Unless the image [NeedsDisk], content has its blobs in memory.
func FromManifest(ctx context.Context, manifest []byte, content Content, opts Options) (*Image, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return nil, err
	}
	need, err := Estimate(manifest)
	if err != nil {
		return nil, err
	}
	held := need.Fetch
	if need.Disk > 0 {
		held = 0 // the disk may be in order, so nothing was fetched ahead
	}
	if err := Fits(manifest, held, opts); err != nil {
		return nil, err
	}
	if isContainer(m) {
		return fromContainer(ctx, m, content, opts)
	}
	return fromArtifact(ctx, m, content, opts)
}

// parseManifest checks what the rest relies on.
func parseManifest(b []byte) (*ocispec.Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%w: manifest of %d bytes", ErrInvalid, len(b))
	}
	var m ocispec.Manifest
	if err := unmarshal("manifest", b, &m); err != nil {
		return nil, err
	}
	if m.SchemaVersion != 2 || len(m.Layers) == 0 || len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%w: manifest of schema version %d with %d layers", ErrInvalid, m.SchemaVersion, len(m.Layers))
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := d.Digest.Validate(); err != nil || d.Size < 0 || d.Size > maxBlob {
			return nil, fmt.Errorf("%w: manifest: blob %.80q of %d bytes", ErrInvalid, d.Digest, d.Size)
		}
	}
	return &m, nil
}

// unmarshal decodes a manifest or a config, which may hold more than any that
// is made in good faith, but not much more.
func unmarshal(what string, b []byte, v any) error {
	if _, err := (jsonlimit.Limits{Depth: 16, Values: 1 << 16, Items: 1 << 13}).Count(b); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, what, err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, what, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s: data after its end", ErrInvalid, what)
	}
	return nil
}

// isContainer tells a container image from an artifact.
func isContainer(m *ocispec.Manifest) bool {
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return false
	}
	if m.ArtifactType != "" {
		return false
	}
	for _, l := range m.Layers {
		if !isTarLayer(l.MediaType) {
			return false
		}
	}
	return true
}

func isTarLayer(mediaType string) bool {
	switch base, _, _ := strings.Cut(mediaType, "+"); base {
	case ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return true
	}
	return false
}

// readConfig reads a small blob.
func readConfig(ctx context.Context, d ocispec.Descriptor, content Content) ([]byte, error) {
	if d.Size > maxConfig {
		return nil, fmt.Errorf("%w: config of %d bytes", ErrInvalid, d.Size)
	}
	f, err := content.Blob(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return b, nil
}

// FromFiles makes an image of a kernel with, perhaps, an initrd and a device
// tree. The files must be open for reading only; the image closes them, also
// when it fails.
func FromFiles(kernel, initrd, dtb *os.File, cmdline string, opts Options) (*Image, error) {
	i := &Image{Kind: event.KindLinux, Kernel: kernel, Initrd: initrd, dtb: dtb}
	if err := i.describeFiles(cmdline, &opts); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

func (i *Image) describeFiles(cmdline string, opts *Options) (err error) {
	if i.Cmdline, err = joinCmdline(cmdline, opts.Cmdline); err != nil {
		return err
	}
	i.Descriptor.Kind = i.Kind
	for _, part := range []struct {
		role string
		file *os.File
	}{{event.RoleKernel, i.Kernel}, {event.RoleInitrd, i.Initrd}, {event.RoleCmdline, nil}, {event.RoleDTB, i.dtb}} {
		a := cmdlineArtifact(i.Cmdline)
		if part.role != event.RoleCmdline {
			if part.file == nil {
				continue
			}
			if a, err = hashFile(part.role, part.file); err != nil {
				return err
			}
		}
		i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, a)
	}
	return i.finish(opts)
}
