package osimage

import (
	"fmt"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/meminfo"
)

// AnnotationUnpacked is an annotation of a container image's manifest: the
// size in bytes of its root when unpacked. With it the check before fetching is exact.
const AnnotationUnpacked = "dev.sealboot.unpacked-size"

// maxUnpacked is the largest value that the annotation can sensibly have.
const maxUnpacked = 1 << 45

// streamMemory is what streaming a disk's layer takes: the fetcher's window and
// buffers, and those of a decompressor.
const streamMemory = 64 << 20

// Needs is what an image takes, as its manifest tells before anything is
// fetched. Without [AnnotationUnpacked] the memory for a container's root is
// the least that is possible (nothing is smaller unpacked than compressed).
type Needs struct {
	Fetch int64 // bytes of the blobs that are held in memory
	Disk  int64 // bytes on the disk at least
	RAM   int64 // bytes of memory at the peak, blobs included, at least
}

// Estimate reads a manifest's sizes.
func Estimate(manifest []byte) (Needs, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return Needs{}, err
	}
	if isContainer(m) {
		return containerNeeds(m)
	}
	var n Needs
	for _, l := range m.Layers {
		r := roleOf(l)
		if r == roleDisk {
			n.Disk += l.Size
		}
		if streamed(l) {
			n.RAM += streamMemory
			continue
		}
		n.Fetch += l.Size
		n.RAM += l.Size
		switch r {
		case roleKernel, roleUKI:
			n.RAM += kernelCopies * l.Size
		case roleInitrd:
			n.RAM += initrdCopies * l.Size
		}
	}
	return n, nil
}

// containerNeeds is for an image whose root is unpacked into memory.
func containerNeeds(m *ocispec.Manifest) (Needs, error) {
	var n Needs
	for _, l := range m.Layers {
		n.Fetch += l.Size
	}
	root := n.Fetch
	if s := m.Annotations[AnnotationUnpacked]; s != "" {
		var err error
		if root, err = strconv.ParseInt(s, 10, 64); err != nil || root < 0 || root > maxUnpacked {
			return Needs{}, fmt.Errorf("%w: annotation %s is %q", ErrInvalid, AnnotationUnpacked, s)
		}
	}
	// The layers are there while the root is written, and freed before it is loaded.
	n.RAM = max(n.Fetch+root, (1+initrdCopies)*root)
	return n, nil
}

// Fits compares what an image needs, as its manifest tells, with the memory
// that is available. Held says how many bytes of its blobs are in memory
// already. Too little is a [meminfo.ShortError].
func Fits(manifest []byte, held int64, opts Options) error {
	n, err := Estimate(manifest)
	if err != nil {
		return err
	}
	have, err := opts.memAvailable()
	if err != nil {
		return err
	}
	if n.RAM > have+held {
		return &meminfo.ShortError{What: "the image", Need: n.RAM, Available: have + held}
	}
	return nil
}
