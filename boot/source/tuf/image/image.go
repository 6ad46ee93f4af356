package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/event"
)

// Client is what [Load] needs of a [tuf.Client] that has refreshed.
type Client interface {
	Find(ctx context.Context, name string) (*tuf.Target, error)
	Download(ctx context.Context, t *tuf.Target) (*os.File, error)
	Provenance(t *tuf.Target) (event.Record, error)
}

var _ Client = (*tuf.Client)(nil)

// Image is a bootable target: complete, verified, positioned at 0. Which fields
// are set depends on its kind.
type Image struct {
	Custom
	// Provenance is what to measure: which metadata vouched for the image.
	Provenance event.Record
	// Kernel, Initrd and DTB are of [KindLinux]; the last two may be nil.
	Kernel, Initrd, DTB *os.File
	// File is the UKI or the bundle.
	File *os.File
}

// Load finds and downloads what the target called name stands for. For
// [KindOCI] there is nothing to download: the caller takes the image with that
// digest from a registry. architecture is the one of the machine, in GOARCH form.
//
// What is signed of the image is shown to admit before anything is downloaded; an
// error of admit's ends the work. It may be nil.
//
// The error is [tuf.ErrNoTarget] if there is no such target and [ErrInvalid] if
// it cannot be booted here.
func Load(ctx context.Context, c Client, name, architecture string, admit func(*Image) error) (*Image, error) {
	t, err := c.Find(ctx, name)
	if err != nil {
		return nil, err
	}
	custom, err := ParseCustom(t.Custom)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", name, err)
	}
	if custom.Architecture != architecture {
		return nil, fmt.Errorf("target %q: %w: it is for %s, this is %s", name, ErrInvalid, custom.Architecture, architecture)
	}
	img := &Image{Custom: *custom}
	if img.Provenance, err = c.Provenance(t); err != nil {
		return nil, err
	}
	if admit != nil {
		if err := admit(img); err != nil {
			return nil, fmt.Errorf("target %q: %w", name, err)
		}
	}
	switch img.Kind {
	case KindOCI:
	case KindLinux:
		err = img.loadLinux(ctx, c, t)
	default:
		img.File, err = c.Download(ctx, t)
	}
	if err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

func (i *Image) loadLinux(ctx context.Context, c Client, t *tuf.Target) error {
	if t.Want.Size > maxLinux {
		return fmt.Errorf("target %q: %w: %d bytes, at most %d", t.Name, ErrInvalid, t.Want.Size, maxLinux)
	}
	f, err := c.Download(ctx, t)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLinux))
	if err != nil {
		return fmt.Errorf("target %q: %w", t.Name, err)
	}
	l, err := ParseLinux(data)
	if err != nil {
		return fmt.Errorf("target %q: %w", t.Name, err)
	}
	i.Cmdline = l.Cmdline
	for _, part := range []struct {
		name string
		file **os.File
	}{{l.Kernel, &i.Kernel}, {l.Initrd, &i.Initrd}, {l.DTB, &i.DTB}} {
		if part.name == "" {
			continue
		}
		target, err := c.Find(ctx, part.name)
		if err != nil {
			return err
		}
		if *part.file, err = c.Download(ctx, target); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the files.
func (i *Image) Close() error {
	var errs []error
	for _, f := range []*os.File{i.Kernel, i.Initrd, i.DTB, i.File} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
