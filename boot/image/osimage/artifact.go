package osimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/measure/event"
)

// AnnotationCmdline is the image's part of the command line: an annotation of
// the manifest, or a label in a container image's config.
const AnnotationCmdline = "dev.sealboot.cmdline"

const maxBootFile = 4 << 30 // bytes of a decompressed kernel or initrd

// fromArtifact makes an image of a manifest whose layers have roles.
func fromArtifact(ctx context.Context, m *ocispec.Manifest, content Content, opts Options) (*Image, error) {
	layers := map[role]ocispec.Descriptor{}
	for _, l := range m.Layers {
		r := roleOf(l)
		if r == roleNone {
			continue
		}
		if _, twice := layers[r]; twice {
			return nil, fmt.Errorf("%w: two layers are a %s", ErrInvalid, r)
		}
		layers[r] = l
	}
	cmdline, err := artifactCmdline(ctx, m, layers, content)
	if err != nil {
		return nil, err
	}
	if opts.Cmdline, err = joinCmdline(cmdline, opts.Cmdline); err != nil {
		return nil, err
	}
	switch {
	case has(layers, roleDisk):
		return fromDiskArtifact(ctx, layers, content, opts)
	case has(layers, roleKernel):
		return fromLinuxArtifact(ctx, layers, content, opts)
	case has(layers, roleUKI):
		f, err := content.Blob(ctx, layers[roleUKI])
		if err != nil {
			return nil, fmt.Errorf("fetch uki: %w", err)
		}
		return FromUKI(f, opts)
	}
	return nil, fmt.Errorf("%w: artifact type %q, no layer is a kernel, a UKI or a disk (media types: %s)",
		ErrUnsupported, m.ArtifactType, mediaTypes(m.Layers))
}

func has(layers map[role]ocispec.Descriptor, r role) bool { _, ok := layers[r]; return ok }

func mediaTypes(layers []ocispec.Descriptor) string {
	types := map[string]bool{}
	for _, l := range layers {
		types[l.MediaType] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(types)), ", ")
}

// artifactCmdline finds the image's command line: a layer, else the
// annotation, else IronCore's config.
func artifactCmdline(ctx context.Context, m *ocispec.Manifest, layers map[role]ocispec.Descriptor, content Content) (string, error) {
	if l, ok := layers[roleCmdline]; ok {
		b, err := readConfig(ctx, l, content)
		return string(b), err
	}
	if line, ok := m.Annotations[AnnotationCmdline]; ok {
		return line, nil
	}
	if !strings.HasPrefix(m.Config.MediaType, ironcore) && !strings.HasPrefix(m.Config.MediaType, onmetal) {
		return "", nil
	}
	b, err := readConfig(ctx, m.Config, content)
	if err != nil {
		return "", err
	}
	var config struct {
		CommandLine string `json:"commandLine"`
	}
	if err := unmarshal("config", b, &config); err != nil {
		return "", err
	}
	return config.CommandLine, nil
}

// fromLinuxArtifact takes kernel, initrd and device tree from their layers; the
// command line in opts is whole.
func fromLinuxArtifact(ctx context.Context, layers map[role]ocispec.Descriptor, content Content, opts Options) (_ *Image, err error) {
	i := &Image{Kind: event.KindLinux, Descriptor: event.Descriptor{Kind: event.KindLinux}}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	if err := i.addBootFiles(ctx, layers, opts.Cmdline, content); err != nil {
		return nil, err
	}
	if err := i.finish(&opts); err != nil {
		return nil, err
	}
	return i, nil
}

// addBootFiles fetches kernel, initrd and device tree and adds them and the
// command line to the descriptor, in its order.
func (i *Image) addBootFiles(ctx context.Context, layers map[role]ocispec.Descriptor, cmdline string, content Content) (err error) {
	i.Cmdline = cmdline
	for _, part := range []struct {
		role role
		name string
		file **os.File
	}{
		{roleKernel, event.RoleKernel, &i.Kernel},
		{roleInitrd, event.RoleInitrd, &i.Initrd},
		{roleCmdline, event.RoleCmdline, nil},
		{roleDTB, event.RoleDTB, &i.dtb},
	} {
		if part.file == nil {
			i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, cmdlineArtifact(i.Cmdline))
			continue
		}
		layer, ok := layers[part.role]
		if !ok {
			continue
		}
		a, err := artifact(part.name, layer)
		if err != nil {
			return err
		}
		i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, a)
		if *part.file, err = bootFile(ctx, layer, content); err != nil {
			return fmt.Errorf("fetch %s: %w", part.name, err)
		}
	}
	return nil
}

// bootFile fetches one layer and decompresses those of pulp/netboot. (An
// initrd that is compressed for the kernel stays as it is.)
func bootFile(ctx context.Context, d ocispec.Descriptor, content Content) (*os.File, error) {
	f, err := content.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	if d.MediaType != pulpFile+"+zstd" {
		return f, nil
	}
	defer f.Close()
	return memfd.Store("boot file", func(w *os.File) error {
		z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return err
		}
		defer z.Close()
		return memfd.CopyLimited(w, ctxReader{ctx, z}, maxBootFile)
	})
}

// maxWindow bounds the memory that a zstd frame can ask for, in bytes.
const maxWindow = 128 << 20

// ctxReader ends when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
