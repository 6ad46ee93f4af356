package unpack

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a zstd frame can ask for, in bytes. It is
// what zstd itself accepts by default.
const maxWindow = 128 << 20

// open returns a layer's tar stream, decompressed by another goroutine.
func (m *merger) open(l Layer) (io.ReadCloser, error) {
	head := make([]byte, 4)
	n, err := l.Blob.ReadAt(head, 0)
	if n < len(head) {
		return nil, fmt.Errorf("%w: layer of %d bytes: %w", ErrHostile, l.Size, err)
	}
	raw := &counter{r: io.NewSectionReader(l.Blob, 0, l.Size), count: m.countRead}
	var in io.ReadCloser
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(raw)
		if err != nil {
			return nil, fmt.Errorf("open gzip layer: %w", err)
		}
		in = readAhead(z)
	case isZstd(head):
		z, err := zstd.NewReader(raw, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("open zstd layer: %w", err)
		}
		in = z.IOReadCloser()
	default:
		in = io.NopCloser(raw)
	}
	return struct {
		io.Reader
		io.Closer
	}{&counter{r: in, count: m.countStream}, in}, nil
}

// isZstd knows the magic of frames and of the skippable frames that may come
// before them.
func isZstd(head []byte) bool {
	return bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18})
}

func (m *merger) countRead(n int) error {
	total := m.read.Add(int64(n))
	if m.opts.Progress != nil {
		m.opts.Progress(total)
	}
	return m.ctx.Err()
}

func (m *merger) countStream(n int) error {
	m.stream += int64(n)
	if m.stream/streamFactor > m.opts.MaxBytes {
		return fmt.Errorf("%w: layers of more than %d MiB for a root of at most %d MiB",
			ErrTooLarge, m.stream>>20, m.opts.MaxBytes>>20)
	}
	return m.ctx.Err()
}

// counter reports what is read, and ends reading when the report fails.
type counter struct {
	r     io.Reader
	count func(n int) error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if cerr := c.count(n); cerr != nil {
		return n, cerr
	}
	return n, err
}
