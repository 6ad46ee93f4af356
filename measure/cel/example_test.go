package cel_test

import (
	"fmt"
	"log"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// A log is parsed, and replayed to the value that the PCR must have. It is worth nothing
// before that value is the one that a TPM has quoted.
func Example() {
	bank := tpm2.TPMAlgSHA256
	entry, err := cel.New(0, event.PCRImage, event.CapRecord(), []tpm2.TPMAlgID{bank})
	if err != nil {
		log.Fatal(err)
	}
	raw, err := cel.Marshal([]cel.Entry{entry})
	if err != nil {
		log.Fatal(err)
	}

	entries, err := cel.Parse(raw) // of a stranger: every error is cel.ErrMalformed
	if err != nil {
		log.Fatal(err)
	}
	start := pcr.Values{event.PCRImage: pcr.Zero(bank)}
	values, err := cel.Replay(start, entries, bank)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Printf("record %d in PCR %d: %s\n", e.RecNum, e.PCR, e.Record.Type)
	}
	fmt.Printf("PCR 12 = %x\n", values[event.PCRImage])
	// Output:
	// record 0 in PCR 12: cap
	// PCR 12 = 8e9b2a234e348cf0b1069707229ee05e1e544363b748a7eba6893e44b286a594
}
