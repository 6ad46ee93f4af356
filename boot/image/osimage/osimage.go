// Package osimage turns an image that a source has fetched and verified into
// what kexec needs: a kernel, an initrd, a command line, and the boot
// descriptor that is measured first. A disk image also goes to its disk while it
// arrives, encrypted until its digest was right, and counts as what the disk then
// gives back.
//
// The descriptor names source bytes alone (the digests of layers and files as
// they were published), so an image measures the same wherever it came from;
// what this package converts them to is never measured. Kinds of image,
// media types and annotations are listed in docs/images.md.
//
// Nothing is read whole into memory that can be streamed, and what the image
// needs is compared with the memory that is free before it is unpacked: too
// little is one [MemoryError] with both numbers.
package osimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/measure/event"
)

// Errors that callers can tell apart with errors.Is.
var (
	// ErrUnsupported says that the image is of no kind that can be booted.
	ErrUnsupported = errors.New("not a bootable image")
	// ErrInvalid says that the image is of a known kind and broken.
	ErrInvalid = errors.New("invalid image")
)

// Image is a complete image, ready to be measured and loaded.
type Image struct {
	Kind       string           // event.KindLinux and so on
	Descriptor event.Descriptor // of the source bytes
	Kernel     *os.File         // open for reading only
	Initrd     *os.File         // open for reading only; may be nil
	Cmdline    string           // final
	NeedsRAM   int64            // bytes that loading takes beyond what is held now
	Notes      []string         // what the operator should know, one line each

	dtb *os.File // is measured, and goes no further
}

// Close frees the image's memory.
func (i *Image) Close() error {
	var errs []error
	for _, f := range []*os.File{i.Kernel, i.Initrd, i.dtb} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	i.Kernel, i.Initrd, i.dtb = nil, nil, nil
	return errors.Join(errs...)
}

// Records is what is measured into the image PCR.
func (i *Image) Records() ([]event.Record, error) { return i.Descriptor.Records() }

// Content has the blobs of an image.
type Content interface {
	// Blob hands out a verified, complete blob: the file is positioned at 0,
	// digest and size are checked. The receiver closes it.
	Blob(ctx context.Context, d ocispec.Descriptor) (*os.File, error)
	// Stream gives a blob's bytes to take, in order, without keeping them. Only
	// when it returns nil have they been the blob's; until then take may be
	// called again, from the first byte on.
	Stream(ctx context.Context, d ocispec.Descriptor, take func(io.Reader) error) error
}

// Options are the site's wishes. The zero value works.
type Options struct {
	// Cmdline is the site's part of the command line; it comes after the
	// image's own, so that it can override.
	Cmdline string
	// Arch is the GOARCH to boot; empty is this machine's.
	Arch string
	// MemAvailable says how many bytes of memory are free; nil asks the kernel.
	MemAvailable func() (int64, error)
	// DeviceTree says whether this machine was booted with a device tree, which
	// kexec passes on; nil asks the kernel.
	DeviceTree func() bool
	// Progress is told how many bytes of how many of a container's layers were
	// converted. May be nil.
	// It is called from several goroutines, one at a time or not.
	Progress func(done, total int64)
	// Checked is told how many bytes of how many of a disk were read back. May
	// be nil.
	Checked func(done, total int64)
	// Disk is where a disk image is written to, a block device or a file,
	// open for reading and writing. Without it such images are refused.
	Disk *os.File
	// DryRun describes an image for another machine: a disk image is not
	// written anywhere, and this machine's device tree does not matter.
	DryRun bool
}

func (o *Options) memAvailable() (int64, error) {
	if o.MemAvailable != nil {
		return o.MemAvailable()
	}
	return meminfo.Available()
}

// artifact makes a descriptor's entry of a published blob.
func artifact(role string, d ocispec.Descriptor) (event.Artifact, error) {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return event.Artifact{}, fmt.Errorf("%w: %s has digest %q, only sha256 is measured", ErrInvalid, role, d.Digest)
	}
	return event.Artifact{Role: role, SHA256: d.Digest.Encoded(), Size: d.Size}, nil
}
