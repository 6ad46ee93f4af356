package cpio

import (
	"bytes"
	"fmt"
	"io"
)

// Reader reads one archive. It holds one header and one name in memory,
// whatever the input claims.
type Reader struct {
	in   io.Reader
	off  int64
	left int64 // unread bytes of the current body
	done bool
}

// NewReader returns a Reader of the archive that starts at r's position.
func NewReader(r io.Reader) *Reader { return &Reader{in: r} }

// Next skips what is left of the current member and returns the next one's
// header. At the trailer it consumes the padding up to [Align] bytes and
// returns io.EOF; r's input is then where a following archive would start.
func (r *Reader) Next() (*Header, error) {
	if r.done {
		return nil, io.EOF
	}
	n, err := io.CopyN(io.Discard, r.in, r.left)
	r.off, r.left = r.off+n, r.left-n
	if err != nil {
		return nil, truncated(err)
	}
	if err := r.zeros(pad(r.off, 4)); err != nil {
		return nil, err
	}
	h, err := r.header()
	if err != nil {
		return nil, err
	}
	if h.Name != trailer {
		r.left = int64(h.Size)
		return h, nil
	}
	if *h != (Header{Name: trailer, Nlink: 1}) {
		return nil, fmt.Errorf("%w: trailer with attributes", ErrFormat)
	}
	if err := r.zeros(pad(r.off, Align)); err != nil {
		return nil, err
	}
	r.done = true
	return nil, io.EOF
}

// Read reads from the current member's body and returns io.EOF at its end.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.off, r.left = r.off+int64(n), r.left-int64(n)
	if err == io.EOF && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// header reads a fixed header and the name after it.
func (r *Reader) header() (*Header, error) {
	var buf [headerLen]byte
	if err := r.full(buf[:]); err != nil {
		return nil, err
	}
	if string(buf[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no newc header at offset %d", ErrFormat, r.off-headerLen)
	}
	var f [13]uint32
	for i := range f {
		v, ok := hex32(buf[len(magic)+8*i:])
		if !ok {
			return nil, fmt.Errorf("%w: header at offset %d is not upper-case hexadecimal", ErrFormat, r.off-headerLen)
		}
		f[i] = v
	}
	nameSize := f[11]
	if nameSize < 2 || nameSize > MaxName+1 || f[12] != 0 {
		return nil, fmt.Errorf("%w: name of %d bytes, check sum %d", ErrFormat, nameSize, f[12])
	}
	name := make([]byte, nameSize)
	if err := r.full(name); err != nil {
		return nil, err
	}
	if bytes.IndexByte(name, 0) != len(name)-1 {
		return nil, fmt.Errorf("%w: name %q does not end at its only NUL", ErrFormat, name)
	}
	return &Header{
		Name: string(name[:len(name)-1]),
		Ino:  f[0], Mode: f[1], UID: f[2], GID: f[3], Nlink: f[4], ModTime: f[5], Size: f[6],
		DevMajor: f[7], DevMinor: f[8], RdevMajor: f[9], RdevMinor: f[10],
	}, r.zeros(pad(r.off, 4))
}

// zeros consumes n bytes of padding, at most Align.
func (r *Reader) zeros(n int64) error {
	var buf, zero [Align]byte
	if err := r.full(buf[:n]); err != nil {
		return err
	}
	if buf != zero {
		return fmt.Errorf("%w: padding before offset %d is not zero", ErrFormat, r.off)
	}
	return nil
}

func (r *Reader) full(p []byte) error {
	n, err := io.ReadFull(r.in, p)
	r.off += int64(n)
	return truncated(err)
}

// truncated turns the end of the input into an error: only a trailer ends an
// archive.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)
	}
	return err
}

// hex32 reads the eight upper-case hexadecimal digits at the start of b.
func hex32(b []byte) (v uint32, ok bool) {
	for _, c := range b[:8] {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'A' && c <= 'F':
			v = v<<4 | uint32(c-'A'+10)
		default:
			return 0, false
		}
	}
	return v, true
}
