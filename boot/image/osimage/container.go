package osimage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/boot/image/unpack"
	"github.com/sealboot/sealboot/measure/event"
)

// LabelKernel is a label of a container image that has several kernels: the
// path of the one to boot.
const LabelKernel = "dev.sealboot.kernel"

// maxTold is how many kernels an error tells of.
const maxTold = 8

// fromContainer unpacks a container image into a root in RAM and takes the
// kernel out of it.
func fromContainer(ctx context.Context, m *ocispec.Manifest, content Content, opts Options) (_ *Image, err error) {
	labels, err := containerLabels(ctx, m, content)
	if err != nil {
		return nil, err
	}
	i := &Image{Kind: event.KindContainer, Descriptor: event.Descriptor{Kind: event.KindContainer}}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	stats, err := i.unpackRoot(ctx, m, content, labels[LabelKernel], &opts)
	if err != nil {
		return nil, err
	}
	name, err := chooseKernel(stats.Kept, labels[LabelKernel])
	if err != nil {
		return nil, err
	}
	if err := i.takeKernel(name, stats.Kept[name], labels[AnnotationCmdline], opts.Cmdline); err != nil {
		return nil, err
	}
	if err := i.describeContainer(m); err != nil {
		return nil, err
	}
	for _, x := range slices.Sorted(maps.Keys(stats.Xattrs)) {
		i.Notes = append(i.Notes, fmt.Sprintf("%d files lose the extended attribute %s: a root in RAM has none", stats.Xattrs[x], x))
	}
	if err := i.finish(&opts); err != nil {
		return nil, err
	}
	return i, nil
}

// containerLabels reads the image's config, and lets an annotation of the
// manifest replace the label of the command line.
func containerLabels(ctx context.Context, m *ocispec.Manifest, content Content) (map[string]string, error) {
	b, err := readConfig(ctx, m.Config, content)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := unmarshal("config", b, &config); err != nil {
		return nil, err
	}
	labels := map[string]string{}
	maps.Copy(labels, config.Config.Labels)
	if line, ok := m.Annotations[AnnotationCmdline]; ok {
		labels[AnnotationCmdline] = line
	}
	return labels, nil
}

// unpackRoot makes the initrd of the layers.
func (i *Image) unpackRoot(ctx context.Context, m *ocispec.Manifest, content Content, kernel string, opts *Options) (*unpack.Stats, error) {
	var layers []unpack.Layer
	var total int64
	for n, d := range m.Layers {
		f, err := content.Blob(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("fetch layer %d: %w", n+1, err)
		}
		defer f.Close() // frees the blob before the root is loaded
		layers = append(layers, unpack.Layer{Blob: f, Size: d.Size})
		total += d.Size
	}
	have, err := opts.memAvailable()
	if err != nil {
		return nil, err
	}
	options := unpack.Options{
		// The blobs are freed again before kexec makes its copy.
		MaxBytes: min(have, (have+total)/(1+initrdCopies)),
		Arch:     opts.Arch,
		Keep:     func(name string) bool { return name == kernel || isKernel(name) || isUKI(name) },
	}
	if opts.Progress != nil {
		options.Progress = func(done int64) { opts.Progress(done, total) }
	}
	var stats *unpack.Stats
	i.Initrd, err = memfd.Store("root", func(w *os.File) (err error) {
		stats, err = unpack.RAMRoot(ctx, w, layers, options)
		return err
	})
	if errors.Is(err, unpack.ErrTooLarge) {
		return nil, fmt.Errorf("%w (a root in RAM can use half of the %d MiB that are available without its layers): %w", meminfo.ErrShort, (have+total)>>20, err)
	}
	return stats, err
}

// isKernel knows the places of kernels: the bootc convention, and /boot.
func isKernel(name string) bool {
	if ok, _ := path.Match("usr/lib/modules/*/vmlinuz", name); ok {
		return true
	}
	ok, _ := path.Match("boot/vmlinuz*", name)
	return ok
}

func isUKI(name string) bool {
	ok, _ := path.Match("usr/lib/modules/*/*.efi", name)
	return ok
}

// chooseKernel picks the label's file, else the only kernel of the first
// place that has any: modules directory, /boot, UKI.
func chooseKernel(found map[string]unpack.Extent, label string) (string, error) {
	if label != "" {
		if _, ok := found[label]; !ok {
			return "", fmt.Errorf("%w: label %s names %q, which is no regular file of the image", ErrInvalid, LabelKernel, label)
		}
		return label, nil
	}
	for _, place := range []func(string) bool{
		func(name string) bool { return isKernel(name) && strings.HasPrefix(name, "usr/") },
		isKernel,
		isUKI,
	} {
		var names []string
		for name := range found {
			if place(name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		switch {
		case len(names) == 1:
			return names[0], nil
		case len(names) > 1:
			return "", fmt.Errorf("%w: %d kernels: %s; remove all but one or name one in the label %s",
				ErrInvalid, len(names), strings.Join(names[:min(len(names), maxTold)], ", "), LabelKernel)
		}
	}
	return "", fmt.Errorf("%w: container image without a kernel; install one, so that there is /usr/lib/modules/VERSION/vmlinuz or /boot/vmlinuz-VERSION", ErrUnsupported)
}

// takeKernel copies the kernel out of the root. Of a UKI it takes the kernel
// and, if the image has no label for it, the command line.
func (i *Image) takeKernel(name string, at unpack.Extent, cmdline, site string) error {
	f, err := extract("kernel", newSection(i.Initrd, at))
	if err != nil {
		return err
	}
	a, err := hashFile(event.RoleKernel, f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, a)
	pe, perr := uki.Parse(f, at.Size)
	if perr != nil || !pe.IsUKI() {
		i.Kernel = f
		i.Cmdline, err = joinCmdline(cmdline, site)
		return err
	}
	defer f.Close()
	linux, _ := pe.Section(".linux")
	if i.Kernel, err = extract("kernel", linux.Reader(f)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if cmdline == "" {
		if cmdline, err = ukiCmdline(pe, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	i.Cmdline, err = joinCmdline(cmdline, site)
	return err
}

// describeContainer adds the command line and the layers to the descriptor.
func (i *Image) describeContainer(m *ocispec.Manifest) error {
	i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, cmdlineArtifact(i.Cmdline))
	for _, l := range m.Layers {
		a, err := artifact(event.RoleLayer, l)
		if err != nil {
			return err
		}
		i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, a)
	}
	return nil
}
