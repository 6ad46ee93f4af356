package osimage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealboot/sealboot/boot/base/memfd"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/measure/event"
)

// FromUKI splits a unified kernel image. The file as a whole is measured; its
// device tree, if it has one, is left out, because kexec passes on the one
// that the machine was booted with. The image closes f, also when it fails.
func FromUKI(f *os.File, opts Options) (*Image, error) {
	i := &Image{Kind: event.KindUKI, Descriptor: event.Descriptor{Kind: event.KindUKI}}
	a, err := hashFile(event.RoleUKI, f)
	if err == nil {
		i.Descriptor.Artifacts = []event.Artifact{a}
		err = i.split(f, opts.Cmdline)
	}
	if err == nil {
		i.Descriptor.Artifacts = append(i.Descriptor.Artifacts, cmdlineArtifact(i.Cmdline))
		err = i.finish(&opts)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// split takes kernel, initrd and command line out of a UKI.
func (i *Image) split(f *os.File, site string) error {
	size, err := sizeOf(f)
	if err != nil {
		return err
	}
	pe, err := uki.Parse(f, size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	linux, ok := pe.Section(".linux")
	if !ok || linux.Size == 0 {
		return fmt.Errorf("%w: a PE file without a .linux section is no UKI", ErrInvalid)
	}
	if i.Kernel, err = extract("kernel", linux.Reader(f)); err != nil {
		return err
	}
	if s, ok := pe.Section(".initrd"); ok && s.Size > 0 {
		if i.Initrd, err = extract("initrd", s.Reader(f)); err != nil {
			return err
		}
	}
	if _, ok := pe.Section(".dtb"); ok {
		i.Notes = append(i.Notes, dtbNote)
	}
	own, err := ukiCmdline(pe, f)
	if err != nil {
		return err
	}
	i.Cmdline, err = joinCmdline(own, site)
	return err
}

func ukiCmdline(pe *uki.File, f *os.File) (string, error) {
	s, ok := pe.Section(".cmdline")
	if !ok {
		return "", nil
	}
	if s.Size > maxCmdline {
		return "", fmt.Errorf("%w: command line of %d bytes in the UKI", ErrInvalid, s.Size)
	}
	b, err := io.ReadAll(s.Reader(f))
	if err != nil {
		return "", fmt.Errorf("read .cmdline: %w", err)
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b), nil
}

// extract copies a part of a file into memory of its own.
func extract(name string, r *io.SectionReader) (*os.File, error) {
	f, err := memfd.Store(name, func(w *os.File) error { return memfd.CopyLimited(w, r, r.Size()) })
	if err != nil {
		return nil, fmt.Errorf("extract %s: %w", name, err)
	}
	return f, nil
}
