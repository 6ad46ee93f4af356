// Package pcr is the arithmetic of PCRs: what a TPM does when it extends one, for
// those who replay a log, predict a value or check a quote without a TPM.
package pcr

import (
	"bytes"
	"crypto"
	_ "crypto/sha1"   // banks that firmware may have left active
	_ "crypto/sha256" //
	_ "crypto/sha512" //
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Count is the number of PCRs of a PC Client TPM; they are numbered from 0.
const Count = 24

// ErrUnsupported means that a bank is of a hash that we cannot compute. It cannot
// be extended and therefore must not be active.
var ErrUnsupported = errors.New("unsupported PCR bank")

// Hash returns the hash of a bank.
func Hash(bank tpm2.TPMAlgID) (crypto.Hash, error) {
	hash, err := bank.Hash()
	if err != nil || !hash.Available() {
		return 0, fmt.Errorf("%w %s", ErrUnsupported, BankName(bank))
	}
	return hash, nil
}

// Digest returns the digest of data for a bank.
func Digest(bank tpm2.TPMAlgID, data []byte) ([]byte, error) {
	hash, err := Hash(bank)
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(data)
	return h.Sum(nil), nil
}

var names = map[tpm2.TPMAlgID]string{
	tpm2.TPMAlgSHA1:   "sha1",
	tpm2.TPMAlgSHA256: "sha256",
	tpm2.TPMAlgSHA384: "sha384",
	tpm2.TPMAlgSHA512: "sha512",
}

// BankName returns the usual name of a bank, such as "sha256", or its number.
func BankName(bank tpm2.TPMAlgID) string {
	if name, ok := names[bank]; ok {
		return name
	}
	return fmt.Sprintf("%#04x", uint16(bank))
}

// ParseBank is the inverse of [BankName] for the banks that have a name.
func ParseBank(name string) (tpm2.TPMAlgID, error) {
	for bank, n := range names {
		if n == name {
			return bank, nil
		}
	}
	return 0, fmt.Errorf("%w %q", ErrUnsupported, name)
}

// Values are PCRs of one bank, as they are after some extends. A PCR that is not
// in the map was not extended.
type Values map[int][]byte

// Extend extends one PCR by a digest.
func (v Values) Extend(bank tpm2.TPMAlgID, index int, digest []byte) error {
	hash, err := Hash(bank)
	if err != nil {
		return err
	}
	if index < 0 || index >= Count {
		return fmt.Errorf("there is no PCR %d", index)
	}
	if len(digest) != hash.Size() {
		return fmt.Errorf("digest for bank %s is %d bytes, not %d", BankName(bank), len(digest), hash.Size())
	}
	old, ok := v[index]
	if !ok {
		old = Zero(bank)
	}
	h := hash.New()
	h.Write(old)
	h.Write(digest)
	v[index] = h.Sum(nil)
	return nil
}

// Clone returns a copy that can be extended on its own.
func (v Values) Clone() Values {
	c := make(Values, len(v))
	for i, value := range v {
		c[i] = bytes.Clone(value)
	}
	return c
}

// Zero returns the value of a static PCR after a reset, or nil if the bank is not
// supported.
func Zero(bank tpm2.TPMAlgID) []byte {
	hash, err := Hash(bank)
	if err != nil {
		return nil
	}
	return make([]byte, hash.Size())
}
