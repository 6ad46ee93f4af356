package osimage

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/boot/image/unpack"
	"github.com/sealboot/sealboot/measure/event"
)

// Copies that loading needs in memory at its peak besides the files, as
// kexec.Needs finds out exactly once they are there.
const (
	kernelCopies = 2
	initrdCopies = 1
)

// sizeOf returns a file's size in bytes and leaves it positioned at 0.
func sizeOf(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	_, err = f.Seek(0, io.SeekStart)
	return size, err
}

// hashFile makes the descriptor's entry of a file that has no digest yet.
func hashFile(role string, f *os.File) (event.Artifact, error) {
	size, err := sizeOf(f)
	if err != nil {
		return event.Artifact{}, err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(f, 0, size)}, make([]byte, 1<<20))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return event.Artifact{}, fmt.Errorf("hash %s: %w", f.Name(), err)
	}
	return event.Artifact{Role: role, SHA256: hex.EncodeToString(h.Sum(nil)), Size: size}, nil
}

// finish checks a complete image and says what loading it takes.
func (i *Image) finish(opts *Options) error {
	if _, err := i.Descriptor.Records(); err != nil {
		return fmt.Errorf("describe image: %w", err)
	}
	if err := checkCmdline(i.Kernel, i.Cmdline); err != nil {
		return err
	}
	size, err := sizeOf(i.Kernel)
	if err != nil {
		return err
	}
	if err := kexec.CheckFormat(i.Kernel, size, cmp.Or(opts.Arch, runtime.GOARCH)); err != nil {
		return fmt.Errorf("%w: kernel: %w%s", ErrInvalid, err, opts.platformHint())
	}
	if err := i.leaveOutDTB(opts); err != nil {
		return err
	}
	if i.NeedsRAM, err = kexec.Needs(i.Kernel, i.Initrd); err != nil {
		return err
	}
	have, err := opts.memAvailable()
	if err != nil {
		return err
	}
	if i.NeedsRAM > have {
		return &meminfo.ShortError{What: "loading the image", Need: i.NeedsRAM, Available: have}
	}
	return nil
}

// platformHint helps anyone who looks at an image for a machine of another sort.
func (o *Options) platformHint() string {
	if !o.DryRun || o.Arch != "" {
		return ""
	}
	return fmt.Sprintf("; name the platform of the machines that it is for, this one is %s/%s", runtime.GOOS, runtime.GOARCH)
}

const dtbNote = "the image's device tree is not used: kexec passes on what this machine was booted with"

// leaveOutDTB closes the image's device tree. kexec_file_load passes on the tree
// that the machine was booted with, and one without any does not need it.
func (i *Image) leaveOutDTB(opts *Options) error {
	if i.dtb == nil {
		return nil
	}
	if opts.deviceTree() {
		return fmt.Errorf("%w: the image brings a device tree, and kexec_file_load passes on the one that this machine was booted with: give the tree to the platform firmware, and publish the image without", ErrUnsupported)
	}
	i.Notes = append(i.Notes, dtbNote)
	err := i.dtb.Close()
	i.dtb = nil
	return err
}

func (o *Options) deviceTree() bool {
	if o.DryRun {
		return false // it is about another machine
	}
	if o.DeviceTree != nil {
		return o.DeviceTree()
	}
	// Every tree of a board has it. The one that Linux makes for itself where
	// ACPI describes an arm64 machine does not.
	_, err := os.Stat("/sys/firmware/devicetree/base/compatible")
	return err == nil
}

// newSection is the part of a file where an archive holds a member's content.
func newSection(f *os.File, at unpack.Extent) *io.SectionReader {
	return io.NewSectionReader(f, at.Offset, at.Size)
}
