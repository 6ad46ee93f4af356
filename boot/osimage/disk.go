package osimage

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sealboot/sealboot/boot/qcow2"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
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

// fromDiskArtifact writes a disk image to the disk, unless it is there, reads
// all of it back, and boots the kernel that was published beside it.
func fromDiskArtifact(ctx context.Context, layers map[role]ocispec.Descriptor, cmdline string, content Content, opts Options) (_ *Image, err error) {
	if opts.Disk == nil && !opts.DryRun {
		return nil, fmt.Errorf("%w: a disk image, but no disk to write it to is configured", ErrUnsupported)
	}
	if !has(layers, roleKernel) {
		return nil, fmt.Errorf("%w: a disk image without a kernel; publish kernel and initrd with it as layers", ErrUnsupported)
	}
	line, err := joinCmdline(cmdline, opts.Cmdline)
	if err != nil {
		return nil, err
	}
	layer := layers[roleDisk]
	verity, err := verityRoot(layer, line)
	if err != nil {
		return nil, err
	}
	disk, err := placeDisk(ctx, layer, content, &opts)
	if err != nil {
		return nil, err
	}
	i := &Image{Kind: event.KindDisk, Descriptor: event.Descriptor{Kind: event.KindDisk, Artifacts: append([]event.Artifact{disk}, verity...)}}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Close())
		}
	}()
	if err := i.addBootFiles(ctx, layers, line, content); err != nil {
		return nil, err
	}
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
// descriptor's entry of its raw content, as read back.
func placeDisk(ctx context.Context, layer ocispec.Descriptor, content Content, opts *Options) (event.Artifact, error) {
	want, err := announced(layer)
	if err != nil {
		return want, err
	}
	if opts.DryRun {
		return packedDisk(ctx, layer, content, want)
	}
	room, err := sizeOf(opts.Disk)
	if err != nil {
		return want, err
	}
	if want.SHA256 != "" && want.Size <= room {
		if have, err := hashDisk(ctx, opts.Disk, want.Size); err == nil && have == want {
			return have, nil
		}
	}
	wrote, err := writeDisk(ctx, layer, content, opts.Disk, room, opts.Progress)
	if err != nil {
		return want, fmt.Errorf("write disk image to %s: %w", opts.Disk.Name(), err)
	}
	if want.SHA256 != "" && wrote != want {
		return want, otherDisk(wrote, want)
	}
	have, err := hashDisk(ctx, opts.Disk, wrote.Size)
	if err != nil {
		return want, err
	}
	if have != wrote {
		return want, fmt.Errorf("%s does not give back what was written to it: replace the disk", opts.Disk.Name())
	}
	return have, nil
}

// packedDisk returns the descriptor's entry of a disk image that is not
// written; want is what its annotations say.
func packedDisk(ctx context.Context, layer ocispec.Descriptor, content Content, want event.Artifact) (event.Artifact, error) {
	f, err := content.Blob(ctx, layer)
	if err != nil {
		return want, err
	}
	defer f.Close()
	have, err := rawDisk(ctx, layer.MediaType, f)
	if err == nil && want.SHA256 != "" && have != want {
		return want, otherDisk(have, want)
	}
	return have, err
}

func otherDisk(have, want event.Artifact) error {
	return fmt.Errorf("%w: the disk has %d bytes with digest %s, its annotations say %d and %s",
		ErrInvalid, have.Size, have.SHA256, want.Size, want.SHA256)
}

// rawDisk hashes the raw content of the disk image in f.
func rawDisk(ctx context.Context, mediaType string, f *os.File) (event.Artifact, error) {
	h := sha256.New()
	w := &diskWriter{ctx: ctx, to: h, room: maxBlob}
	if err := decompressDisk(ctx, mediaType, f, w); err != nil {
		return event.Artifact{}, fmt.Errorf("disk image %s: %w", f.Name(), err)
	}
	return event.Artifact{Role: event.RoleDisk, SHA256: hex.EncodeToString(h.Sum(nil)), Size: w.done}, nil
}

// announced reads the annotations about the raw content; without them the
// result has no digest.
func announced(layer ocispec.Descriptor) (event.Artifact, error) {
	a := event.Artifact{Role: event.RoleDisk}
	sum, size := layer.Annotations[AnnotationRawSHA256], layer.Annotations[AnnotationRawSize]
	if sum == "" && size == "" {
		return a, nil
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n <= 0 || !sha256Hex.MatchString(sum) {
		return a, fmt.Errorf("%w: annotations %s=%q, %s=%q", ErrInvalid, AnnotationRawSHA256, sum, AnnotationRawSize, size)
	}
	a.SHA256, a.Size = sum, n
	return a, nil
}

// writeDisk streams the raw content to the start of the disk, at most room
// bytes, and hashes it on the way.
func writeDisk(ctx context.Context, layer ocispec.Descriptor, content Content, disk *os.File, room int64, progress func(done, total int64)) (event.Artifact, error) {
	a := event.Artifact{Role: event.RoleDisk}
	f, err := content.Blob(ctx, layer)
	if err != nil {
		return a, err
	}
	defer f.Close()
	h := sha256.New()
	w := &diskWriter{ctx: ctx, to: io.MultiWriter(disk, h), room: room}
	if progress != nil {
		w.progress = func(done int64) { progress(done, layer.Size) }
	}
	if _, err := disk.Seek(0, io.SeekStart); err != nil {
		return a, err
	}
	if err := decompressDisk(ctx, layer.MediaType, f, w); err != nil {
		return a, err
	}
	if err := disk.Sync(); err != nil {
		return a, err
	}
	a.SHA256, a.Size = hex.EncodeToString(h.Sum(nil)), w.done
	return a, nil
}

// DescribeDisk returns the annotations of a disk image's layer, so that a disk
// which holds the image is recognised: digest and size of the raw content of f.
func DescribeDisk(ctx context.Context, mediaType string, f *os.File) (map[string]string, error) {
	raw, err := rawDisk(ctx, mediaType, f)
	if err != nil {
		return nil, err
	}
	return map[string]string{AnnotationRawSHA256: raw.SHA256, AnnotationRawSize: strconv.FormatInt(raw.Size, 10)}, nil
}

// decompressDisk writes the raw disk in f to w.
func decompressDisk(ctx context.Context, mediaType string, f *os.File, w *diskWriter) error {
	base, compression, _ := strings.Cut(mediaType, "+")
	size, err := sizeOf(f)
	if err != nil {
		return err
	}
	if base == MediaTypeQcow2 {
		i, err := qcow2.Open(f, size, w.room)
		if err != nil {
			return err
		}
		return i.Copy(ctx, w)
	}
	in := &counting{r: f, count: w.read}
	var r io.Reader
	switch compression {
	case "":
		r = in
	case "gzip":
		r, err = gzip.NewReader(in)
	case "zstd":
		z, zerr := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow))
		if zerr != nil {
			return zerr
		}
		defer z.Close()
		r = z
	case "xz":
		r, err = xz.NewReader(in)
	default:
		return fmt.Errorf("%w: disk of media type %q", ErrUnsupported, mediaType)
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return err
}

// diskWriter refuses to write beyond the end of the disk.
type diskWriter struct {
	ctx        context.Context
	to         io.Writer
	done, room int64
	progress   func(done int64)
}

func (w *diskWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > w.room-w.done {
		return 0, fmt.Errorf("%w: the image needs more than the %d MiB of the disk", ErrInvalid, w.room>>20)
	}
	n, err := w.to.Write(p)
	w.done += int64(n)
	return n, err
}

func (w *diskWriter) read(total int64) {
	if w.progress != nil {
		w.progress(total)
	}
}

// counting reports how much was read.
type counting struct {
	r     io.Reader
	total int64
	count func(total int64)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.total += int64(n)
	c.count(c.total)
	return n, err
}

// hashDisk hashes the first size bytes as the medium has them: what is cached
// of the disk is dropped first.
func hashDisk(ctx context.Context, disk *os.File, size int64) (event.Artifact, error) {
	if err := unix.Fadvise(int(disk.Fd()), 0, size, unix.FADV_DONTNEED); err != nil {
		return event.Artifact{}, fmt.Errorf("drop cache of %s: %w", disk.Name(), err)
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, ctxReader{ctx, io.NewSectionReader(disk, 0, size)}, make([]byte, 1<<20))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return event.Artifact{}, fmt.Errorf("hash %s: %w", disk.Name(), err)
	}
	return event.Artifact{Role: event.RoleDisk, SHA256: hex.EncodeToString(h.Sum(nil)), Size: size}, nil
}
