package wire

import (
	"errors"
	"fmt"
)

// Evidence is M3. TPM structures are in TPM wire format.
type Evidence struct {
	Version        int      `json:"version"`
	M1             []byte   `json:"m1"`             // as it was sent
	M2             []byte   `json:"m2"`             // as it was received
	Quote          []byte   `json:"quote"`          // TPMS_ATTEST of the AK over M2's PCRs, extraData = T
	QuoteSignature []byte   `json:"quoteSignature"` // TPMT_SIGNATURE
	Certify        []byte   `json:"certify"`        // TPMS_ATTEST of the AK over the agent key, extraData = T
	CertifySig     []byte   `json:"certifySignature"`
	PCRValues      [][]byte `json:"pcrValues"`   // in the order of M2's PCRs: claims, believed only if the quote's digest agrees
	FirmwareLog    []byte   `json:"firmwareLog"` // binary_bios_measurements; empty if firmware keeps none
	EventLog       []byte   `json:"eventLog"`    // the loader's TCG canonical event log (CEL-TLV)
}

func (*Evidence) limit() int { return MaxEvidence }

func (e *Evidence) check() error {
	if len(e.PCRValues) == 0 || len(e.PCRValues) > 16 {
		return fmt.Errorf("%d pcrValues, want 1 to 16", len(e.PCRValues))
	}
	for _, v := range e.PCRValues {
		if err := checkSize("pcrValues", len(v), 64); err != nil {
			return err
		}
	}
	return errors.Join(
		checkVersion(e.Version),
		checkSize("m1", len(e.M1), MaxMessage),
		checkSize("m2", len(e.M2), MaxMessage),
		checkSize("quote", len(e.Quote), 1<<10),
		checkSize("quoteSignature", len(e.QuoteSignature), 1<<10),
		checkSize("certify", len(e.Certify), 1<<10),
		checkSize("certifySignature", len(e.CertifySig), 1<<10),
	)
}
