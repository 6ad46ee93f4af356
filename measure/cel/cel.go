// Package cel reads and writes the log of what Sealboot measured: a Canonical
// Event Log in its TLV encoding (TCG Canonical Event Log Format, version 1.0).
//
// The parser is strict, because what it returns is believed: record numbers run
// from 0, every record has a digest for the same banks, each digest is that of the
// record's content, and there is one encoding of every log.
package cel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Limits of a log.
const (
	MaxSize    = 1 << 20 // bytes
	MaxEntries = 4096
)

// ContentType is the type of the content field of a record: its value is the
// encoding of an [event.Record].
const ContentType = 0x53

// The types of the other fields, section 5.1 of the specification.
const (
	typeRecNum  = 0
	typePCR     = 1
	typeDigests = 3
)

const headerSize = 5 // type (1 byte) and length (4 bytes, big endian)

// ErrMalformed is wrapped by every error of [Parse].
var ErrMalformed = errors.New("malformed event log")

// Entry is one record of a log.
type Entry struct {
	RecNum  uint64
	PCR     int
	Digests map[tpm2.TPMAlgID][]byte // one a bank
	Record  event.Record
}

// New returns the entry that measures a record into a PCR of some banks. Its
// digests are those to extend.
func New(recNum uint64, index int, record event.Record, banks []tpm2.TPMAlgID) (Entry, error) {
	content, err := encodeContent(record)
	if err != nil {
		return Entry{}, err
	}
	if index < 0 || index >= pcr.Count {
		return Entry{}, fmt.Errorf("measure %s: there is no PCR %d", record.Type, index)
	}
	if len(banks) == 0 {
		return Entry{}, fmt.Errorf("measure %s: no PCR bank", record.Type)
	}
	e := Entry{RecNum: recNum, PCR: index, Record: record, Digests: make(map[tpm2.TPMAlgID][]byte)}
	for _, bank := range banks {
		if e.Digests[bank], err = pcr.Digest(bank, content); err != nil {
			return Entry{}, fmt.Errorf("measure %s: %w", record.Type, err)
		}
	}
	return e, nil
}

// Digest returns the digest of a record for a bank: the hash of its whole content
// field, type and length included.
func Digest(bank tpm2.TPMAlgID, record event.Record) ([]byte, error) {
	content, err := encodeContent(record)
	if err != nil {
		return nil, err
	}
	return pcr.Digest(bank, content)
}

// AppendTo appends the encoding of e to a log.
func (e Entry) AppendTo(log []byte) ([]byte, error) {
	content, err := encodeContent(e.Record)
	if err != nil {
		return nil, err
	}
	var digests []byte
	for _, bank := range slices.Sorted(maps.Keys(e.Digests)) {
		if bank > 0xff {
			return nil, fmt.Errorf("bank %s does not fit into a CEL", pcr.BankName(bank))
		}
		digests = appendField(digests, byte(bank), e.Digests[bank])
	}
	log = appendField(log, typeRecNum, binary.BigEndian.AppendUint64(nil, e.RecNum))
	log = appendField(log, typePCR, []byte{byte(e.PCR)})
	log = appendField(log, typeDigests, digests)
	return append(log, content...), nil
}

// Marshal encodes a log.
func Marshal(entries []Entry) ([]byte, error) {
	var log []byte
	var err error
	for _, e := range entries {
		if log, err = e.AppendTo(log); err != nil {
			return nil, err
		}
	}
	return log, nil
}

// Replay returns the PCRs of a bank after the entries, beginning with those of
// start, such as what firmware measured, which it leaves as they are.
func Replay(start pcr.Values, entries []Entry, bank tpm2.TPMAlgID) (pcr.Values, error) {
	values := start.Clone()
	for _, e := range entries {
		digest, ok := e.Digests[bank]
		if !ok {
			return nil, fmt.Errorf("%w: record %d has no digest for bank %s", ErrMalformed, e.RecNum, pcr.BankName(bank))
		}
		if err := values.Extend(bank, e.PCR, digest); err != nil {
			return nil, fmt.Errorf("replay record %d: %w", e.RecNum, err)
		}
	}
	return values, nil
}

func encodeContent(record event.Record) ([]byte, error) {
	b, err := record.Marshal()
	if err != nil {
		return nil, err
	}
	return appendField(nil, ContentType, b), nil
}

func appendField(b []byte, typ byte, value []byte) []byte {
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}
