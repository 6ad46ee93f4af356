package fwlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

var (
	specIDSignature   = []byte("Spec ID Event03\x00")
	localitySignature = []byte("StartupLocality\x00")
)

const (
	sha1Size      = 20
	maxDigestSize = 64
	maxBanks      = 16
	localityHCRTM = 4
	anyPCR        = 0xffffffff // PFP 10.2.1: an EV_NO_ACTION event of no PCR
)

// Parse decodes a log. It fails with [ErrMalformed] unless the log begins with a
// Spec ID header of the crypto-agile format, and is well-formed to its last byte.
func Parse(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b), MaxSize)
	}
	p := parser{rest: b, log: new(Log)}
	if err := p.header(); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrMalformed, err)
	}
	for num := 1; len(p.rest) > 0; num++ {
		if num > MaxEvents {
			return nil, fmt.Errorf("%w: more than %d events", ErrMalformed, MaxEvents)
		}
		if err := p.event(num); err != nil {
			return nil, fmt.Errorf("%w: event %d: %w", ErrMalformed, num, err)
		}
	}
	return p.log, nil
}

type parser struct {
	rest     []byte
	log      *Log
	sizes    map[tpm2.TPMAlgID]int // of digests
	started  bool                  // PCR 0 was extended
	locality bool                  // a StartupLocality was seen
}

// take returns the next n bytes, or nil and an error if there are fewer.
func (p *parser) take(n uint32) ([]byte, error) {
	if uint64(n) > uint64(len(p.rest)) {
		return nil, fmt.Errorf("cut short: %d bytes are missing", uint64(n)-uint64(len(p.rest)))
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b, nil
}

func (p *parser) uint32() (uint32, error) {
	b, err := p.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (p *parser) uint16() (uint16, error) {
	b, err := p.take(2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b), nil
}

// sized returns the bytes after a 4-byte length.
func (p *parser) sized() ([]byte, error) {
	n, err := p.uint32()
	if err != nil {
		return nil, err
	}
	return p.take(n)
}

// header decodes the first event, which has the old SHA-1 format: PFP 10.2.1.
func (p *parser) header() error {
	fixed, err := p.take(4 + 4 + sha1Size)
	if err != nil {
		return err
	}
	want := make([]byte, len(fixed)) // PCR 0, a digest of zero
	binary.LittleEndian.PutUint32(want[4:], uint32(EventNoAction))
	if !bytes.Equal(fixed, want) {
		return fmt.Errorf("the log does not begin with a Spec ID event")
	}
	data, err := p.sized()
	if err != nil {
		return err
	}
	spec := parser{rest: data, log: p.log}
	if err := spec.specID(); err != nil {
		return err
	}
	p.sizes = spec.sizes
	return nil
}

// specID decodes TCG_EfiSpecIDEvent, PFP 10.4.5.1.
func (p *parser) specID() error {
	fixed, err := p.take(16 + 4 + 4) // signature, platform class, versions and size of UINTN
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(fixed, specIDSignature) {
		return fmt.Errorf("not of the crypto-agile format (%q)", fixed[:16])
	}
	n, err := p.uint32()
	if err != nil {
		return err
	}
	if n == 0 || n > maxBanks {
		return fmt.Errorf("%d banks", n)
	}
	p.sizes = make(map[tpm2.TPMAlgID]int)
	for range n {
		if err := p.bank(); err != nil {
			return err
		}
	}
	vendor, err := p.take(1)
	if err != nil {
		return err
	}
	if _, err := p.take(uint32(vendor[0])); err != nil {
		return err
	}
	if len(p.rest) > 0 {
		return fmt.Errorf("%d bytes after the vendor information", len(p.rest))
	}
	return nil
}

func (p *parser) bank() error {
	alg, err := p.uint16()
	if err != nil {
		return err
	}
	size, err := p.uint16()
	if err != nil {
		return err
	}
	bank := tpm2.TPMAlgID(alg)
	if hash, err := pcr.Hash(bank); err == nil && int(size) != hash.Size() || size == 0 || size > maxDigestSize {
		return fmt.Errorf("bank %s has digests of %d bytes", pcr.BankName(bank), size)
	}
	if _, ok := p.sizes[bank]; ok {
		return fmt.Errorf("bank %s is listed twice", pcr.BankName(bank))
	}
	p.sizes[bank] = int(size)
	p.log.Banks = append(p.log.Banks, bank)
	return nil
}

// event decodes a TCG_PCR_EVENT2, PFP 10.2.2.
func (p *parser) event(num int) error {
	index, err := p.uint32()
	if err != nil {
		return err
	}
	typ, err := p.uint32()
	if err != nil {
		return err
	}
	e := Event{Num: num, PCR: int(index), Type: EventType(typ)}
	if index == anyPCR && e.Type == EventNoAction {
		e.PCR = NoPCR
	} else if index >= pcr.Count {
		return fmt.Errorf("there is no PCR %d", index)
	}
	if e.Digests, err = p.digests(); err != nil {
		return err
	}
	if e.Data, err = p.sized(); err != nil {
		return err
	}
	if err := p.startup(e); err != nil {
		return err
	}
	p.log.Events = append(p.log.Events, e)
	return nil
}

// digests decodes exactly one digest for each bank of the header.
func (p *parser) digests() (map[tpm2.TPMAlgID][]byte, error) {
	n, err := p.uint32()
	if err != nil {
		return nil, err
	}
	if int64(n) != int64(len(p.sizes)) {
		return nil, fmt.Errorf("%d digests for %d banks", n, len(p.sizes))
	}
	digests := make(map[tpm2.TPMAlgID][]byte, n)
	for range n {
		alg, err := p.uint16()
		if err != nil {
			return nil, err
		}
		bank := tpm2.TPMAlgID(alg)
		if !slices.Contains(p.log.Banks, bank) || digests[bank] != nil {
			return nil, fmt.Errorf("a digest too many for bank %s", pcr.BankName(bank))
		}
		if digests[bank], err = p.take(uint32(p.sizes[bank])); err != nil {
			return nil, err
		}
	}
	return digests, nil
}

// startup notes the locality that the TPM was started from (PFP 10.4.5.3). The
// claim must be made once and before PCR 0 is extended, or it could be bent until
// some forged log replays.
func (p *parser) startup(e Event) error {
	switch {
	case e.PCR == 0 && e.Type == EventEFIHCRTM:
		// The hardware measured before it started the TPM, which sets PCR 0 to 4
		// whatever the locality was.
		if p.started {
			return fmt.Errorf("a late %s", e.Type)
		}
		p.log.StartupLocality, p.started = localityHCRTM, true
		return nil
	case e.Extends():
		p.started = p.started || e.PCR == 0
		return nil
	case !bytes.HasPrefix(e.Data, localitySignature):
		return nil
	}
	if len(e.Data) != len(localitySignature)+1 || e.PCR != 0 || p.locality || p.started {
		return fmt.Errorf("a StartupLocality event that is malformed, repeated or late")
	}
	locality := e.Data[len(localitySignature)]
	if locality != 0 && locality != 3 && locality != localityHCRTM {
		return fmt.Errorf("the TPM cannot be started from locality %d", locality)
	}
	p.log.StartupLocality, p.locality = locality, true
	return nil
}
