package floor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A slot is one copy of the record, big endian:
//
//	offset  size
//	     0     1  format, 1
//	     1     4  sequence number, from 1; of two slots the later counts
//	     5     6  TUF root: version
//	    11    32  TUF root: SHA-256
//	    43     6  timestamp: version
//	    49    16  timestamp: keyset
//	    65    22  snapshot
//	    87    22  targets
//	   109     8  image version
//	   117     6  time, seconds since 1970
//	   123     1  zero
//	   124     4  CRC-32 (Castagnoli) of all before
//
// There are two, and a raise writes the one that does not count, so that one is
// whole whenever the power fails.
const (
	slotSize   = 128
	slots      = 2
	slotFormat = 1
	crcOffset  = slotSize - 4
)

var errSlot = errors.New("slot is not whole")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeSlot(sequence uint32, r Record) ([]byte, error) {
	seconds := uint64(0)
	if !r.Time.IsZero() {
		if r.Time.Unix() < 0 {
			return nil, fmt.Errorf("time %s is before 1970", r.Time)
		}
		seconds = uint64(r.Time.Unix())
	}
	for _, v := range []uint64{r.RootVersion, r.Timestamp.Version, r.Snapshot.Version, r.Targets.Version, seconds} {
		if v > MaxVersion {
			return nil, fmt.Errorf("%d does not fit into the floor", v)
		}
	}
	b := make([]byte, 0, slotSize)
	b = append(b, slotFormat)
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = append48(b, r.RootVersion)
	b = append(b, r.RootSHA256[:]...)
	for _, role := range []Role{r.Timestamp, r.Snapshot, r.Targets} {
		b = append48(b, role.Version)
		b = append(b, role.Keyset[:]...)
	}
	b = binary.BigEndian.AppendUint64(b, r.ImageVersion)
	b = append48(b, seconds)
	b = append(b, 0)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

func decodeSlot(b []byte) (sequence uint32, r Record, err error) {
	if len(b) != slotSize || binary.BigEndian.Uint32(b[crcOffset:]) != crc32.Checksum(b[:crcOffset], castagnoli) {
		return 0, Record{}, errSlot
	}
	if b[0] != slotFormat || b[crcOffset-1] != 0 {
		return 0, Record{}, fmt.Errorf("%w: unknown format %d", errSlot, b[0])
	}
	sequence = binary.BigEndian.Uint32(b[1:])
	if sequence == 0 {
		return 0, Record{}, fmt.Errorf("%w: sequence number 0", errSlot)
	}
	b = b[5:]
	r.RootVersion, b = take48(b)
	b = b[copy(r.RootSHA256[:], b):]
	for _, role := range []*Role{&r.Timestamp, &r.Snapshot, &r.Targets} {
		role.Version, b = take48(b)
		b = b[copy(role.Keyset[:], b):]
	}
	r.ImageVersion, b = binary.BigEndian.Uint64(b), b[8:]
	if seconds, _ := take48(b); seconds != 0 {
		r.Time = time.Unix(int64(seconds), 0).UTC()
	}
	return sequence, r, nil
}

func append48(b []byte, v uint64) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(v>>32))
	return binary.BigEndian.AppendUint32(b, uint32(v))
}

func take48(b []byte) (uint64, []byte) {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:])), b[6:]
}

// after is the sequence number that follows: numbers begin anew at 1, never at 0. A floor does not live to see that by
// itself, but anyone who boots a medium of his own can write the last number, and must not end all raises by it.
func after(sequence uint32) uint32 { return max(sequence+1, 1) }

// newest returns the record that counts, its slot and its sequence number. Numbers are compared as on a circle (RFC 1982).
func newest(content []byte) (r Record, slot int, sequence uint32, err error) {
	slot = -1
	for i := range slots {
		s, record, err := decodeSlot(content[i*slotSize : (i+1)*slotSize])
		if err == nil && (slot < 0 || int32(s-sequence) > 0) {
			r, slot, sequence = record, i, s
		}
	}
	if slot < 0 {
		return Record{}, -1, 0, ErrTorn
	}
	return r, slot, sequence, nil
}
