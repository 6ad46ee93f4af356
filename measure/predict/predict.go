// Package predict computes what a machine will measure before it does: the
// reference values that a verifier compares a quote with.
//
// It is arithmetic over published artifacts. It needs no TPM, and for what the
// loader measures it uses the very code that measures.
package predict

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
)

// Digests are the digests of one thing, one a PCR bank.
type Digests map[tpm2.TPMAlgID][]byte

// Event is one measurement that firmware or systemd-stub will make.
type Event struct {
	PCR     int
	Type    fwlog.EventType
	Digests Digests
	What    string // for people, such as "name of .linux"
}

// Image is what the loader measures for an image into its image PCR.
type Image struct {
	Records []event.Record // in order, without the cap
	Digests []Digests      // of each record
	// Attested is the value of the PCR when the machine asks for its secrets,
	// AfterCap the value that the operating system finds.
	Attested, AfterCap Digests
}

// ForImage predicts the image PCR for a descriptor.
func ForImage(d event.Descriptor, banks []tpm2.TPMAlgID) (*Image, error) {
	records, err := d.Records()
	if err != nil {
		return nil, fmt.Errorf("predict %s image: %w", d.Kind, err)
	}
	image := &Image{Records: records, Attested: make(Digests), AfterCap: make(Digests)}
	var entries []cel.Entry
	for i, record := range append(slices.Clone(records), event.CapRecord()) {
		e, err := cel.New(uint64(i), event.PCRImage, record, banks)
		if err != nil {
			return nil, fmt.Errorf("predict %s image: %w", d.Kind, err)
		}
		entries = append(entries, e)
		if i < len(records) {
			image.Digests = append(image.Digests, maps.Clone(e.Digests))
		}
	}
	for _, bank := range banks {
		attested, err := cel.Replay(nil, entries[:len(records)], bank)
		if err != nil {
			return nil, fmt.Errorf("predict %s image: %w", d.Kind, err)
		}
		after, err := cel.Replay(attested, entries[len(records):], bank)
		if err != nil {
			return nil, fmt.Errorf("predict %s image: %w", d.Kind, err)
		}
		image.Attested[bank], image.AfterCap[bank] = attested[event.PCRImage], after[event.PCRImage]
	}
	return image, nil
}
