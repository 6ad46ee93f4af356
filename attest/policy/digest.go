package policy

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

// Digests are a value in several banks: the bank's name and lower-case hex.
type Digests map[string]string

// DigestsOf converts what a log or a prediction holds.
func DigestsOf(digests map[tpm2.TPMAlgID][]byte) Digests {
	d := make(Digests, len(digests))
	for bank, digest := range digests {
		d[pcr.BankName(bank)] = hex.EncodeToString(digest)
	}
	return d
}

func (d Digests) check() error {
	if len(d) == 0 {
		return errors.New("no digest for any bank")
	}
	for name, value := range d {
		if err := checkDigest(name, value); err != nil {
			return err
		}
	}
	return nil
}

func checkDigest(bankName, value string) error {
	bank, err := pcr.ParseBank(bankName)
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(value)
	if err != nil || len(raw) != len(pcr.Zero(bank)) || hex.EncodeToString(raw) != value {
		return fmt.Errorf("%q is not a digest of %s in lower-case hex", value, bankName)
	}
	return nil
}
