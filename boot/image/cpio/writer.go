package cpio

import (
	"bufio"
	"fmt"
	"io"
)

const (
	bufferSize = 1 << 20
	hexDigits  = "0123456789ABCDEF"
)

// Writer writes one archive. Its methods are not safe for concurrent use.
type Writer struct {
	out  *bufio.Writer
	off  int64 // bytes written so far, buffered ones included
	left int64 // bytes of the current body that are still owed
	hdr  [headerLen]byte
}

// NewWriter returns a Writer that sends its archive to w through a buffer of
// 1 MiB. [Writer.Close] flushes it.
func NewWriter(w io.Writer) *Writer {
	// Only Write is passed on: os.File's own ReadFrom would bypass the buffer.
	return &Writer{out: bufio.NewWriterSize(struct{ io.Writer }{w}, bufferSize)}
}

// Offset returns the length of the archive so far in bytes. Right after
// [Writer.WriteHeader] it is where the member's body starts.
func (w *Writer) Offset() int64 { return w.off }

// WriteHeader ends the previous member and starts the next one, whose body of
// exactly h.Size bytes follows through [Writer.Write] or [Writer.ReadFrom].
func (w *Writer) WriteHeader(h *Header) error {
	if err := h.check(); err != nil {
		return err
	}
	return w.writeHeader(h)
}

func (w *Writer) writeHeader(h *Header) error {
	if err := w.endMember(); err != nil {
		return err
	}
	copy(w.hdr[:], magic)
	at := len(magic)
	for _, v := range h.fields(uint32(len(h.Name) + 1)) {
		for shift := 28; shift >= 0; shift -= 4 {
			w.hdr[at] = hexDigits[v>>shift&0xf]
			at++
		}
	}
	if _, err := w.out.Write(w.hdr[:]); err != nil {
		return err
	}
	if _, err := w.out.WriteString(h.Name); err != nil {
		return err
	}
	w.off += int64(headerLen + len(h.Name))
	w.left = int64(h.Size)
	// The NUL that ends the name, then zeros up to a multiple of 4.
	return w.zeros(1 + pad(w.off+1, 4))
}

// endMember checks that the body is complete and pads it.
func (w *Writer) endMember() error {
	if w.left != 0 {
		return fmt.Errorf("%w: %d bytes of the last member are missing", ErrFormat, w.left)
	}
	return w.zeros(pad(w.off, 4))
}

// Write appends to the body of the current member. It refuses more than the
// header announced.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%w: body is %d bytes longer than its header says", ErrFormat, int64(len(p))-w.left)
	}
	n, err := w.out.Write(p)
	w.off += int64(n)
	w.left -= int64(n)
	return n, err
}

// ReadFrom copies the rest of the current member's body from r. It reads no
// more than the body's bytes; fewer are io.ErrUnexpectedEOF.
func (w *Writer) ReadFrom(r io.Reader) (int64, error) {
	n, err := w.out.ReadFrom(io.LimitReader(r, w.left))
	w.off += n
	w.left -= n
	if err == nil && w.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close ends the archive, pads it to [Align] bytes, flushes the buffer and
// overwrites it, because it may have held secrets. It does not close the
// underlying writer.
func (w *Writer) Close() error {
	defer w.wipe()
	if err := w.writeHeader(&Header{Name: trailer, Nlink: 1}); err != nil {
		return err
	}
	if err := w.zeros(pad(w.off, Align)); err != nil {
		return err
	}
	return w.out.Flush()
}

// wipe overwrites the flushed buffer.
func (w *Writer) wipe() {
	w.out.Reset(io.Discard) // drops what an error has left
	b := w.out.AvailableBuffer()
	clear(b[:cap(b)])
}

func (w *Writer) zeros(n int64) error {
	var zero [Align]byte
	m, err := w.out.Write(zero[:n])
	w.off += int64(m)
	return err
}
