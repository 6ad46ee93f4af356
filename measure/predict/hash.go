package predict

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

// hashes hashes for several banks at once. It is an io.Writer.
type hashes map[tpm2.TPMAlgID]hash.Hash

func newHashes(banks []tpm2.TPMAlgID) (hashes, error) {
	if len(banks) == 0 {
		return nil, errors.New("no PCR bank")
	}
	h := make(hashes)
	for _, bank := range banks {
		alg, err := pcr.Hash(bank)
		if err != nil {
			return nil, err
		}
		h[bank] = alg.New()
	}
	return h, nil
}

func (h hashes) Write(b []byte) (int, error) {
	for _, one := range h {
		one.Write(b)
	}
	return len(b), nil
}

func (h hashes) digests() Digests {
	d := make(Digests)
	for bank, one := range h {
		d[bank] = one.Sum(nil)
	}
	return d
}

// copyRange hashes the bytes from..to of r.
func (h hashes) copyRange(r io.ReaderAt, from, to int64) error {
	n, err := io.Copy(h, io.NewSectionReader(r, from, to-from))
	if err == nil && n != to-from {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read bytes %d to %d: %w", from, to, err)
	}
	return nil
}
