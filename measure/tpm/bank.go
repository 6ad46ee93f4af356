package tpm

import (
	"crypto"
	_ "crypto/sha1"   // banks that firmware may have left active
	_ "crypto/sha256" //
	_ "crypto/sha512" //
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// HashOf returns the hash of a PCR bank. It fails for a bank that we cannot
// compute, which therefore cannot be extended and must not be active.
func HashOf(bank tpm2.TPMAlgID) (crypto.Hash, error) {
	hash, err := bank.Hash()
	if err != nil || !hash.Available() {
		return 0, fmt.Errorf("unsupported PCR bank %s: deactivate it in the firmware setup", BankName(bank))
	}
	return hash, nil
}

// BankName returns the usual name of a bank, such as "sha256".
func BankName(bank tpm2.TPMAlgID) string {
	switch bank {
	case tpm2.TPMAlgSHA1:
		return "sha1"
	case tpm2.TPMAlgSHA256:
		return "sha256"
	case tpm2.TPMAlgSHA384:
		return "sha384"
	case tpm2.TPMAlgSHA512:
		return "sha512"
	}
	return fmt.Sprintf("%#04x", uint16(bank))
}

// BankOf is the inverse of [BankName] for the banks that have a name.
func BankOf(name string) (tpm2.TPMAlgID, bool) {
	for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		if BankName(bank) == name {
			return bank, true
		}
	}
	return 0, false
}
