package cel

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	oracle "github.com/google/go-eventlog/cel"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/golden"
	"github.com/sealboot/sealboot/measure/pcr"
)

var (
	sum       = strings.Repeat("ab", 32)
	bothBanks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}
	hashes    = map[tpm2.TPMAlgID]crypto.Hash{tpm2.TPMAlgSHA256: crypto.SHA256, tpm2.TPMAlgSHA384: crypto.SHA384}
)

func sample(t testing.TB) []Entry {
	t.Helper()
	var entries []Entry
	for i, m := range []struct {
		pcr int
		rec event.Record
	}{
		{13, event.Record{Type: event.TypeHostConfig, SHA256: sum, Size: 12}},
		{12, event.Record{Type: event.TypeArtifact, Name: event.RoleKernel, SHA256: sum, Size: 8 << 20}},
		{13, event.Record{Type: event.TypeProvenance, Name: "oci", Detail: map[string]string{"ref": "r/<&>"}}},
		{12, event.CapRecord()},
	} {
		e, err := New(uint64(i), m.pcr, m.rec, bothBanks)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}

func encode(t testing.TB, entries []Entry) []byte {
	t.Helper()
	log, err := Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func TestGolden(t *testing.T) {
	log := encode(t, sample(t))
	golden.Check(t, "testdata/log.hex", hex.Dump(log))
	got, err := Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(t), got); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

// TestOracle compares with another implementation of the format.
func TestOracle(t *testing.T) {
	entries := sample(t)
	theirs, err := oracle.DecodeToCEL(bytes.NewBuffer(encode(t, entries)))
	if err != nil {
		t.Fatal(err)
	}
	bank := make(fakeBank)
	for i, r := range theirs.Records() {
		e := entries[i]
		if r.RecNum != e.RecNum || int(r.Index) != e.PCR || r.Content.Type != ContentType {
			t.Errorf("record %d: %+v", i, r)
		}
		for alg, digest := range e.Digests {
			if !bytes.Equal(r.Digests[hashes[alg]], digest) {
				t.Errorf("record %d: digest for %s is %x", i, pcr.BankName(alg), r.Digests[hashes[alg]])
			}
		}
		content, err := r.Content.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		bank.extend(e.PCR, content)
	}
	got, err := Replay(nil, entries, tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int][]byte(bank), map[int][]byte(got)); diff != "" {
		t.Errorf("PCRs (-theirs +ours):\n%s", diff)
	}
}

type fakeBank map[int][]byte

func (b fakeBank) extend(index int, data []byte) {
	digest := crypto.SHA256.New()
	digest.Write(data)
	h := crypto.SHA256.New()
	h.Write(append(make([]byte, 32-min(32, len(b[index]))), b[index]...))
	h.Write(digest.Sum(nil))
	b[index] = h.Sum(nil)
}

func TestReplay(t *testing.T) {
	entries := sample(t)
	start := pcr.Values{12: bytes.Repeat([]byte{1}, 32), 4: bytes.Repeat([]byte{4}, 32)}
	got, err := Replay(start, entries, tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[4], start[4]) || start[12][0] != 1 {
		t.Error("Replay changed a PCR that no entry extends, or its argument")
	}
	fromZero, err := Replay(nil, entries, tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got[12], fromZero[12]) || !bytes.Equal(got[13], fromZero[13]) {
		t.Error("Replay does not begin with the values it was given")
	}
	if _, err := Replay(nil, entries, tpm2.TPMAlgSHA512); !errors.Is(err, ErrMalformed) {
		t.Errorf("Replay of a bank that is not in the log: %v; want ErrMalformed", err)
	}
}

func TestParseMalformed(t *testing.T) {
	good := sample(t)
	for name, c := range map[string]struct {
		log  []byte
		want string // empty if nothing is wrong
	}{
		"cut":                {encode(t, good)[:100], "cut short"},
		"cut to a header":    {encode(t, good)[:5], "cut short"},
		"cut in a header":    {encode(t, good)[:4], "4 bytes where a field"},
		"trailing":           {append(encode(t, good), 0), "1 bytes where a field"},
		"number missing":     {encode(t, good[1:]), "record number 0000000000000001"},
		"number twice":       {encode(t, append(good[:1:1], good...)), "record number 0000000000000000"},
		"order":              {encode(t, []Entry{good[1], good[0]}), "record number 0000000000000001"},
		"PCR 23":             {encode(t, []Entry{with(good[0], func(e *Entry) { e.PCR = 23 })}), ""},
		"PCR 24":             {encode(t, []Entry{with(good[0], func(e *Entry) { e.PCR = 24 })}), "PCR 18"},
		"no banks":           {encode(t, []Entry{with(good[0], func(e *Entry) { e.Digests = nil })}), "no PCR bank"},
		"bank missing":       {encode(t, []Entry{good[0], with(good[1], func(e *Entry) { delete(e.Digests, tpm2.TPMAlgSHA256) })}), "other banks than record 0"},
		"bank unknown":       {encode(t, []Entry{with(good[0], func(e *Entry) { e.Digests[0x12] = make([]byte, 32) })}), "measure host-config"},
		"other digest":       {encode(t, []Entry{with(good[0], func(e *Entry) { e.Digests[tpm2.TPMAlgSHA384][0] ^= 1 })}), "not that of the content"},
		"digest of no size":  {encode(t, []Entry{with(good[0], func(e *Entry) { e.Digests[tpm2.TPMAlgSHA384] = nil })}), "not that of the content"},
		"other content":      {encode(t, []Entry{with(good[0], func(e *Entry) { e.Record.Size++ })}), "not that of the content"},
		"banks out of order": {reorderDigests(t, good[0], false), "bank 0xb is out of order"},
		"bank twice":         {reorderDigests(t, good[0], true), "bank 0xb is out of order"},
		"foreign content":    {foreignContent(t, good[0]), "field of type 80 where type 83"},
		"huge field":         {[]byte{0, 0xff, 0xff, 0xff, 0xff}, "cut short"},
		"long":               {make([]byte, MaxSize), "record 0"},
		"too long":           {make([]byte, MaxSize+1), "1048577 bytes, more than"},
		"many":               {many(t, MaxEntries), ""},
		"too many":           {many(t, MaxEntries+1), "more than 4096 records"},
	} {
		entries, err := Parse(c.log)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d entries, %v, want %v with %q", name, len(entries), err, ErrMalformed, c.want)
		}
	}
}

func with(e Entry, change func(*Entry)) Entry {
	digests := make(map[tpm2.TPMAlgID][]byte)
	for alg, d := range e.Digests {
		digests[alg] = bytes.Clone(d)
	}
	e.Digests = digests
	change(&e)
	return e
}

// reorderDigests puts the second digest first, or the first once more before both.
func reorderDigests(t *testing.T, e Entry, again bool) []byte {
	t.Helper()
	log := encode(t, []Entry{e})
	const first = 5 + 8 + 5 + 1 + 5 // after the headers of the fields before
	d256, d384 := log[first:first+5+32], log[first+5+32:first+5+32+5+48]
	digests := slices.Concat(d384, d256)
	if again {
		digests = slices.Concat(d256, d256, d384)
	}
	field := appendField(nil, typeDigests, digests)
	return slices.Concat(log[:first-5], field, log[first+5+32+5+48:])
}

// foreignContent is well-formed, and extended, but it is not ours to judge.
func foreignContent(t *testing.T, e Entry) []byte {
	t.Helper()
	content := appendField(nil, 80, []byte("other"))
	for alg := range e.Digests {
		d, err := pcr.Digest(alg, content)
		if err != nil {
			t.Fatal(err)
		}
		e.Digests[alg] = d
	}
	log := encode(t, []Entry{e})
	own, err := encodeContent(e.Record)
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.TrimSuffix(log, own), content...)
}

func many(t *testing.T, n int) []byte {
	t.Helper()
	e, err := New(0, 12, event.CapRecord(), bothBanks)
	if err != nil {
		t.Fatal(err)
	}
	one := encode(t, []Entry{e})
	log := make([]byte, 0, len(one)*n)
	for i := range n {
		binary.BigEndian.PutUint64(one[5:], uint64(i))
		log = append(log, one...)
	}
	return log
}

func TestNewRefuses(t *testing.T) {
	wide := sample(t)[0]
	wide.Digests = map[tpm2.TPMAlgID][]byte{0xff: nil, 0x100: nil}
	for want, err := range map[string]error{
		"there is no PCR 24": second(New(0, 24, event.CapRecord(), bothBanks)),
		"there is no PCR -1": second(New(0, -1, event.CapRecord(), bothBanks)),
		"no PCR bank":        second(New(0, 12, event.CapRecord(), nil)),
		"measure cap":        second(New(0, 12, event.CapRecord(), []tpm2.TPMAlgID{0x12})),
		"invalid event":      second(New(0, 12, event.Record{}, bothBanks)),
		"does not fit":       func() error { _, err := wide.AppendTo(nil); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
	if _, err := New(0, 0, event.CapRecord(), bothBanks); err != nil {
		t.Errorf("PCR 0: %v", err)
	}
	wide.Digests = map[tpm2.TPMAlgID][]byte{0xff: nil}
	if _, err := wide.AppendTo(nil); err != nil {
		t.Errorf("the last bank that fits: %v", err)
	}
}

func second(_ Entry, err error) error { return err }

func FuzzParse(f *testing.F) {
	log := encode(f, sample(f))
	f.Add(log)
	f.Add(log[:len(log)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Marshal(entries)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("Marshal(Parse(%x)) = %x, %v", b, again, err)
		}
		for _, e := range entries {
			if _, err := Replay(nil, entries, bothBanks[0]); err != nil && e.Digests[bothBanks[0]] != nil {
				t.Errorf("Replay: %v", fmt.Errorf("%w", err))
			}
		}
	})
}
