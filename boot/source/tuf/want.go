package tuf

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"
)

// Want is what a target file must be. At least one digest is set; all that are
// set must match.
type Want struct {
	Size   int64  // bytes
	SHA256 []byte // 32 bytes, or nil
	SHA512 []byte // 64 bytes, or nil
}

// Verifier is a writer that compares what is written to it with w.
func (w Want) Verifier() *Verifier {
	v := &Verifier{want: w}
	if w.SHA256 != nil {
		v.add(sha256.New(), w.SHA256)
	}
	if w.SHA512 != nil {
		v.add(sha512.New(), w.SHA512)
	}
	return v
}

// Verifier hashes a file on its way. It refuses the first byte too many.
type Verifier struct {
	want   Want
	n      int64
	hashes []hash.Hash
	sums   [][]byte
}

func (v *Verifier) add(h hash.Hash, sum []byte) {
	v.hashes, v.sums = append(v.hashes, h), append(v.sums, sum)
}

// Written is the number of bytes so far.
func (v *Verifier) Written() int64 { return v.n }

// Write implements [io.Writer].
func (v *Verifier) Write(p []byte) (int, error) {
	if v.n+int64(len(p)) > v.want.Size {
		return 0, fmt.Errorf("%w: more than the %d bytes expected", ErrMismatch, v.want.Size)
	}
	for _, h := range v.hashes {
		h.Write(p)
	}
	v.n += int64(len(p))
	return len(p), nil
}

// Verify returns nil if everything was written and is as it should be.
func (v *Verifier) Verify() error {
	if v.n != v.want.Size {
		return fmt.Errorf("%w: %d bytes, expected %d", ErrMismatch, v.n, v.want.Size)
	}
	if len(v.hashes) == 0 {
		return fmt.Errorf("%w: there is no digest to compare with", ErrMismatch)
	}
	for i, h := range v.hashes {
		if got := h.Sum(nil); !bytes.Equal(got, v.sums[i]) {
			return fmt.Errorf("%w: %x, expected %x", ErrMismatch, got, v.sums[i])
		}
	}
	return nil
}

// Check reads a file to its end and compares it with w.
func (w Want) Check(r io.Reader) error {
	v := w.Verifier()
	if _, err := io.Copy(v, r); err != nil {
		return err
	}
	return v.Verify()
}

// Reader hands on what r has, and ends with an error in place of [io.EOF] if that is
// not what w says. What is copied and compared are then the same bytes, whatever
// becomes of the file that they come from.
func (w Want) Reader(r io.Reader) io.Reader { return &reader{r, w.Verifier()} }

type reader struct {
	r io.Reader
	v *Verifier
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if _, tooMuch := r.v.Write(p[:n]); tooMuch != nil {
		return 0, tooMuch
	}
	if err == io.EOF {
		if wrong := r.v.Verify(); wrong != nil {
			return n, wrong
		}
	}
	return n, err
}
