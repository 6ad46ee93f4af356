package cel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Parse decodes a log and checks it: see the package comment. An empty log has no
// entries.
func Parse(log []byte) ([]Entry, error) {
	if len(log) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(log), MaxSize)
	}
	var entries []Entry
	for len(log) > 0 {
		if len(entries) == MaxEntries {
			return nil, fmt.Errorf("%w: more than %d records", ErrMalformed, MaxEntries)
		}
		e, rest, err := parseEntry(log, uint64(len(entries)))
		if err != nil {
			return nil, fmt.Errorf("%w: record %d: %w", ErrMalformed, len(entries), err)
		}
		if len(entries) > 0 && !maps.EqualFunc(e.Digests, entries[0].Digests, func(_, _ []byte) bool { return true }) {
			return nil, fmt.Errorf("%w: record %d is for other banks than record 0", ErrMalformed, len(entries))
		}
		entries, log = append(entries, e), rest
	}
	return entries, nil
}

// parseEntry decodes the first record of a log, which must have this number.
func parseEntry(log []byte, recNum uint64) (e Entry, rest []byte, err error) {
	number, log, err := field(log, typeRecNum)
	if err != nil {
		return Entry{}, nil, err
	}
	if len(number) != 8 || binary.BigEndian.Uint64(number) != recNum {
		return Entry{}, nil, fmt.Errorf("record number %x", number)
	}
	index, log, err := field(log, typePCR)
	if err != nil {
		return Entry{}, nil, err
	}
	if len(index) != 1 || index[0] >= pcr.Count {
		return Entry{}, nil, fmt.Errorf("PCR %x", index)
	}
	digests, log, err := field(log, typeDigests)
	if err != nil {
		return Entry{}, nil, err
	}
	found, err := parseDigests(digests)
	if err != nil {
		return Entry{}, nil, err
	}
	content, rest, err := field(log, ContentType)
	if err != nil {
		return Entry{}, nil, err
	}
	record, err := event.Parse(content)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err = New(recNum, int(index[0]), record, slices.Collect(maps.Keys(found)))
	if err != nil {
		return Entry{}, nil, err
	}
	if !maps.EqualFunc(e.Digests, found, bytes.Equal) {
		return Entry{}, nil, fmt.Errorf("a digest is not that of the content (%s)", record.Type)
	}
	return e, rest, nil
}

// parseDigests decodes the digests field: one field a bank, in ascending order.
func parseDigests(b []byte) (map[tpm2.TPMAlgID][]byte, error) {
	digests := make(map[tpm2.TPMAlgID][]byte)
	last := -1
	for len(b) > 0 {
		typ := b[0]
		if int(typ) <= last {
			return nil, fmt.Errorf("digest of bank %#x is out of order", typ)
		}
		last = int(typ)
		digest, rest, err := field(b, typ)
		if err != nil {
			return nil, err
		}
		digests[tpm2.TPMAlgID(typ)], b = digest, rest
	}
	return digests, nil
}

// field takes a field of one type off the front of b.
func field(b []byte, typ byte) (value, rest []byte, err error) {
	if len(b) < headerSize {
		return nil, nil, fmt.Errorf("%d bytes where a field of type %d should be", len(b), typ)
	}
	if b[0] != typ {
		return nil, nil, fmt.Errorf("field of type %d where type %d should be", b[0], typ)
	}
	size := binary.BigEndian.Uint32(b[1:])
	b = b[headerSize:]
	if uint64(size) > uint64(len(b)) {
		return nil, nil, fmt.Errorf("field of type %d is cut short", typ)
	}
	return b[:size:size], b[size:], nil
}
