package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Image is the reference of one operating system image: what the loader measures into PCR 12 for it, and nothing else.
type Image struct {
	Header
	Ref          string         `json:"ref,omitempty"` // where it was published; for people
	ImageVersion uint64         `json:"imageVersion"`  // grows with every release; the rollback floor compares it
	Records      []event.Record `json:"records"`       // the whole of PCR 12 at attestation, in order
	// Values of PCR 12 by bank. They follow from Records and are here so that they can be compared by eye.
	Attested Digests `json:"attested"` // when the device asks for a release
	Capped   Digests `json:"capped"`   // in the running OS
}

// NewImage makes the reference of an image from its boot descriptor.
func NewImage(name, ref string, version uint64, d event.Descriptor, banks []tpm2.TPMAlgID) (*Image, error) {
	records, err := d.Records()
	if err != nil {
		return nil, err
	}
	i := &Image{Header: Header{Version, KindImage, name}, Ref: ref, ImageVersion: version, Records: records}
	if i.Attested, i.Capped, err = imageValues(records, banks); err != nil {
		return nil, err
	}
	return i, i.check()
}

// imageValues predicts PCR 12.
func imageValues(records []event.Record, banks []tpm2.TPMAlgID) (attested, capped Digests, err error) {
	attested, capped = Digests{}, Digests{}
	for _, bank := range banks {
		values := pcr.Values{}
		for i, r := range append(slices.Clone(records), event.CapRecord()) {
			if i == len(records) {
				attested[pcr.BankName(bank)] = hex.EncodeToString(values[event.PCRImage])
			}
			digest, err := cel.Digest(bank, r)
			if err != nil {
				return nil, nil, err
			}
			if err := values.Extend(bank, event.PCRImage, digest); err != nil {
				return nil, nil, err
			}
		}
		capped[pcr.BankName(bank)] = hex.EncodeToString(values[event.PCRImage])
	}
	return attested, capped, nil
}

func (i *Image) check() error {
	if err := i.Header.check(KindImage); err != nil {
		return err
	}
	if _, err := event.DescriptorOf(i.Records); err != nil {
		return fmt.Errorf("records: %w", err)
	}
	var banks []tpm2.TPMAlgID
	for name := range i.Attested {
		bank, err := pcr.ParseBank(name)
		if err != nil {
			return fmt.Errorf("attested: %w", err)
		}
		banks = append(banks, bank)
	}
	if len(banks) == 0 {
		return errors.New("attested: no bank")
	}
	attested, capped, err := imageValues(i.Records, banks)
	if err != nil {
		return err
	}
	if !maps.Equal(attested, i.Attested) || !maps.Equal(capped, i.Capped) {
		return errors.New("the PCR values do not follow from the records; make the file anew with sealboot predict")
	}
	return nil
}

// sameRecord tells whether two records are measured alike. A record has one encoding, so its fields decide.
func sameRecord(a, b event.Record) bool {
	return a.Type == b.Type && a.Name == b.Name && a.SHA256 == b.SHA256 && a.Size == b.Size && maps.Equal(a.Detail, b.Detail)
}
