package osimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sealboot/sealboot/measure/event"
)

// Annotations of a disk's layer.
const (
	// AnnotationRawSHA256 and AnnotationRawSize describe the decompressed
	// disk: lower-case hex, and bytes. With both, a disk that already holds
	// the image is recognised, and nothing is fetched.
	AnnotationRawSHA256 = "dev.sealboot.disk.sha256"
	AnnotationRawSize   = "dev.sealboot.disk.size"
	// AnnotationVerity is the dm-verity root hash, lower-case hex. The
	// command line has to pass it on, and it is measured besides the disk.
	AnnotationVerity = "dev.sealboot.verity.roothash"
)

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// DiskError says that a disk image does not fit on its disk.
type DiskError struct {
	Disk            string
	Need, Available int64 // bytes; Need is the least that is certain
}

func (e *DiskError) Error() string {
	return fmt.Sprintf("the disk image needs %d MiB, disk %s has %d MiB: use a smaller image or a larger disk",
		(e.Need+1<<20-1)>>20, e.Disk, e.Available>>20)
}

// Is matches ErrInvalid: this image cannot be booted on this machine.
func (e *DiskError) Is(target error) bool { return target == ErrInvalid }

// fromDiskArtifact writes a disk image to the disk, unless it is there, reads
// all of it back, and boots the kernel that was published next to it.
func fromDiskArtifact(ctx context.Context, layers map[role]ocispec.Descriptor, content Content, opts Options) (_ *Image, err error) {
	if opts.Disk == nil && !opts.DryRun {
		return nil, fmt.Errorf("%w: a disk image, but no disk to write it to is configured", ErrUnsupported)
	}
	if !has(layers, roleKernel) {
		return nil, fmt.Errorf("%w: a disk image without a kernel; publish kernel and initrd with it as layers", ErrUnsupported)
	}
	layer := layers[roleDisk]
	verity, err := verityRoot(layer, opts.Cmdline)
	if err != nil {
		return nil, err
	}
	i := &Image{Kind: event.KindDisk, Descriptor: event.Descriptor{Kind: event.KindDisk}}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	// What is small first: if it cannot be had, the disk stays as it is.
	if err := i.addBootFiles(ctx, layers, opts.Cmdline, content); err != nil {
		return nil, err
	}
	disk, err := i.placeDisk(ctx, layer, content, &opts)
	if err != nil {
		return nil, err
	}
	i.Descriptor.Artifacts = slices.Concat([]event.Artifact{disk}, verity, i.Descriptor.Artifacts)
	return i, i.finish(&opts)
}

// verityRoot makes the descriptor's entry of the root hash, if there is one.
// Nothing would check it if the command line did not name it.
func verityRoot(layer ocispec.Descriptor, cmdline string) ([]event.Artifact, error) {
	root, ok := layer.Annotations[AnnotationVerity]
	if !ok {
		return nil, nil
	}
	if !sha256Hex.MatchString(root) || !strings.Contains(cmdline, root) {
		return nil, fmt.Errorf("%w: annotation %s is %q, which must be a SHA-256 root hash that the command line passes on", ErrInvalid, AnnotationVerity, root)
	}
	return []event.Artifact{{Role: event.RoleVerityRoot, SHA256: root}}, nil
}

// placeDisk makes sure that the disk begins with the image and returns the
// descriptor's entry of its raw content, as read back from the disk: nothing
// of a stream counts before that.
func (i *Image) placeDisk(ctx context.Context, layer ocispec.Descriptor, content Content, opts *Options) (event.Artifact, error) {
	want, err := announced(layer)
	if err != nil {
		return want, err
	}
	if opts.DryRun {
		have, err := readDisk(ctx, layer, content, func() (io.Writer, error) { return io.Discard, nil }, maxBlob, "")
		if err == nil && want.SHA256 != "" && have != want {
			return want, otherDisk(have, want)
		}
		return have, err
	}
	room, err := sizeOf(opts.Disk)
	if err != nil {
		return want, err
	}
	disk := diskFile{opts.Disk}
	if want.Size > room {
		return want, &DiskError{disk.Name(), want.Size, room}
	}
	if want.SHA256 != "" {
		have, err := hashDisk(ctx, disk, want.Size, opts.Checked)
		if err == nil && have == want {
			return have, nil
		}
		i.Notes = append(i.Notes, fmt.Sprintf("disk %s did not hold the image and was written anew", disk.Name()))
	}
	return writeDisk(ctx, disk, room, want, layer, content, opts.Checked)
}

// writeDisk writes the image to a disk with room bytes. Unless it succeeds, the disk holds nothing that boots.
func writeDisk(ctx context.Context, disk medium, room int64, want event.Artifact, layer ocispec.Descriptor, content Content, checked func(done, total int64)) (have event.Artifact, err error) {
	v, whole := &veil{disk: disk, room: room}, false
	defer func() { // also when a parser panics
		if !whole {
			err = errors.Join(err, v.abandon())
		}
	}()
	wrote, err := readDisk(ctx, layer, content, v.begin, room, disk.Name())
	if err == nil && want.SHA256 != "" && wrote != want {
		return want, otherDisk(wrote, want)
	}
	if err == nil {
		err = v.lift(ctx, checked)
	}
	if err != nil {
		return want, fmt.Errorf("disk %s does not hold the image, writing it: %w", disk.Name(), err)
	}
	if have, err = hashDisk(ctx, disk, wrote.Size, checked); err != nil {
		return want, err
	}
	if have != wrote {
		return want, errForgetful(disk)
	}
	whole = true
	return have, nil
}

func otherDisk(have, want event.Artifact) error {
	return fmt.Errorf("%w: the disk has %d bytes with digest %s, its annotations say %d and %s",
		ErrInvalid, have.Size, have.SHA256, want.Size, want.SHA256)
}

// announced says what the raw content is to be, as far as that is known before
// it is fetched: by the annotations, or because the layer is the raw content.
// Otherwise the result has no digest.
func announced(layer ocispec.Descriptor) (event.Artifact, error) {
	a := event.Artifact{Role: event.RoleDisk}
	sum, size := layer.Annotations[AnnotationRawSHA256], layer.Annotations[AnnotationRawSize]
	if sum == "" && size == "" {
		if layer.MediaType == MediaTypeRaw {
			return artifact(event.RoleDisk, layer)
		}
		return a, nil
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n <= 0 || !sha256Hex.MatchString(sum) {
		return a, fmt.Errorf("%w: annotations %s=%q, %s=%q", ErrInvalid, AnnotationRawSHA256, sum, AnnotationRawSize, size)
	}
	a.SHA256, a.Size = sum, n
	return a, nil
}

// readDisk streams the raw content of a disk's layer to what begin returns, at most room bytes, and hashes it on the
// way. name is the disk's, for errors.
func readDisk(ctx context.Context, layer ocispec.Descriptor, content Content, begin func() (io.Writer, error), room int64, name string) (event.Artifact, error) {
	var have event.Artifact
	take := func(r io.Reader) error {
		// It may be called again, when what came before was wrong.
		to, err := begin()
		if err != nil {
			return err
		}
		have, err = unpackDisk(ctx, layer.MediaType, r, &diskWriter{ctx: ctx, to: to, name: name, room: room})
		return err
	}
	if !streamed(layer) {
		f, err := content.Blob(ctx, layer)
		if err != nil {
			return have, err
		}
		defer f.Close()
		return have, take(f)
	}
	err := content.Stream(ctx, layer, take)
	return have, err
}

// streamed tells a disk's layer that is read from its beginning to its end. A
// qcow2 image has its tables anywhere, so it is held in memory.
func streamed(layer ocispec.Descriptor) bool {
	return roleOf(layer) == roleDisk && !strings.HasPrefix(layer.MediaType, MediaTypeQcow2)
}

// hashDisk hashes the first size bytes as the medium has them: what is cached
// of the disk is dropped first.
func hashDisk(ctx context.Context, disk medium, size int64, checked func(done, total int64)) (event.Artifact, error) {
	if err := disk.uncache(size); err != nil {
		return event.Artifact{}, fmt.Errorf("drop cache of %s: %w", disk.Name(), err)
	}
	h := sha256.New()
	from := io.TeeReader(io.NewSectionReader(disk, 0, size), &counter{total: size, tell: checked})
	n, err := io.CopyBuffer(h, ctxReader{ctx, from}, make([]byte, 1<<20))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return event.Artifact{}, fmt.Errorf("hash %s: %w", disk.Name(), err)
	}
	return event.Artifact{Role: event.RoleDisk, SHA256: hex.EncodeToString(h.Sum(nil)), Size: size}, nil
}

// counter tells how many bytes went through it.
type counter struct {
	done, total int64
	tell        func(done, total int64) // may be nil
}

func (c *counter) Write(p []byte) (int, error) {
	c.done += int64(len(p))
	if c.tell != nil {
		c.tell(c.done, c.total)
	}
	return len(p), nil
}
