package osimage

import (
	"fmt"
	"strconv"
)

// AnnotationUnpacked is an annotation of a container image's manifest: the
// size in bytes of its root when unpacked. With it the check before fetching is exact.
const AnnotationUnpacked = "dev.sealboot.unpacked-size"

// maxUnpacked is the largest value that the annotation can sensibly have.
const maxUnpacked = 1 << 45

// Needs is what an image takes, as its manifest tells before anything is
// fetched. Without [AnnotationUnpacked] the memory for a container's root is
// the least that is possible (nothing is smaller unpacked than compressed).
type Needs struct {
	Fetch int64 // bytes of all blobs
	Disk  int64 // bytes on the disk at least
	RAM   int64 // bytes of memory at the peak, blobs included, at least
}

// Estimate reads a manifest's sizes.
func Estimate(manifest []byte) (Needs, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return Needs{}, err
	}
	var n Needs
	var boot int64 // what will be loaded
	container := isContainer(m)
	for _, l := range m.Layers {
		n.Fetch += l.Size
		switch {
		case container, roleOf(l) == roleKernel, roleOf(l) == roleInitrd, roleOf(l) == roleUKI:
			boot += l.Size
		case roleOf(l) == roleDisk:
			n.Disk += l.Size
		}
	}
	n.RAM = n.Fetch + kexecCopies*boot
	if s := m.Annotations[AnnotationUnpacked]; container && s != "" {
		size, err := strconv.ParseInt(s, 10, 64)
		if err != nil || size < 0 || size > maxUnpacked {
			return Needs{}, fmt.Errorf("%w: annotation %s is %q", ErrInvalid, AnnotationUnpacked, s)
		}
		// The layers are there while the root is written, and freed before it is loaded.
		n.RAM = max(n.Fetch+size, (1+kexecCopies)*size)
	}
	return n, nil
}

// Check compares the needs with the memory that is available, in bytes.
func (n Needs) Check(available int64) error {
	if n.RAM > available {
		return &MemoryError{"the image", n.RAM, available}
	}
	return nil
}

// check is Check once the blobs are there: they are counted already.
func (n Needs) check(opts *Options) error {
	have, err := opts.memAvailable()
	if err != nil {
		return err
	}
	n.RAM -= n.Fetch
	return n.Check(have)
}
