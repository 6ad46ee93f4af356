package osimage

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/sealboot/sealboot/boot/image/qcow2"
	"github.com/sealboot/sealboot/boot/image/xzstream"
	"github.com/sealboot/sealboot/measure/event"
)

// DescribeDisk returns the annotations of a disk image's layer, so that a disk
// which holds the image is recognised: digest and size of the raw content of f.
func DescribeDisk(ctx context.Context, mediaType string, f *os.File) (map[string]string, error) {
	raw, err := unpackDisk(ctx, mediaType, f, &diskWriter{ctx: ctx, to: io.Discard, room: maxBlob})
	if err != nil {
		return nil, fmt.Errorf("disk image %s: %w", f.Name(), err)
	}
	return map[string]string{AnnotationRawSHA256: raw.SHA256, AnnotationRawSize: strconv.FormatInt(raw.Size, 10)}, nil
}

// unpackDisk writes the raw content of a disk image to w and returns the
// descriptor's entry of it. A qcow2 image must be a file.
func unpackDisk(ctx context.Context, mediaType string, r io.Reader, w *diskWriter) (event.Artifact, error) {
	h := sha256.New()
	w.to = io.MultiWriter(w.to, h)
	base, compression, _ := strings.Cut(mediaType, "+")
	var err error
	if base == MediaTypeQcow2 {
		err = copyQcow2(ctx, r, w)
	} else {
		err = decompress(compression, r, w)
	}
	return event.Artifact{Role: event.RoleDisk, SHA256: hex.EncodeToString(h.Sum(nil)), Size: w.done}, err
}

func copyQcow2(ctx context.Context, r io.Reader, w *diskWriter) error {
	f, ok := r.(*os.File)
	if !ok {
		return fmt.Errorf("%w: a qcow2 image that is no file", ErrUnsupported)
	}
	size, err := sizeOf(f)
	if err != nil {
		return err
	}
	i, err := qcow2.Open(f, size, w.room)
	if err != nil {
		return err
	}
	return i.Copy(ctx, w)
}

// decompress works on this goroutine alone, where a parser's panic is caught:
// what it reads has not been verified yet.
func decompress(compression string, r io.Reader, w io.Writer) error {
	var err error
	switch compression {
	case "":
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
			r = z
		}
	case "xz":
		return xzstream.Copy(w, r)
	default:
		err = fmt.Errorf("%w: disk with compression %q", ErrUnsupported, compression)
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
	name       string // of the disk
	done, room int64
}

func (w *diskWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > w.room-w.done {
		return 0, &DiskError{w.name, w.done + int64(len(p)), w.room}
	}
	n, err := w.to.Write(p)
	w.done += int64(n)
	return n, err
}
