package tpm_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm"
)

// liar is a TPM, or an attacker on its bus, that answers each kind of command with what a test likes.
type liar struct {
	answers map[tpm2.TPMCC][]byte
	next    []byte
}

func (l *liar) Write(command []byte) (int, error) {
	l.next = l.answers[tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))]
	if l.next == nil {
		l.next = response(uint32(tpm2.TPMRCFailure))
	}
	return len(command), nil
}

func (l *liar) Read(b []byte) (int, error) { return copy(b, l.next), nil }

func (l *liar) Close() error { return nil }

// body is the encoding of TPM structures and of numbers, one after the other.
func body(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case tpm2.TPM2BNVPublic:
			b = append(b, tpm2.Marshal(p)...)
		case tpm2.TPMLPCRSelection:
			b = append(b, tpm2.Marshal(p)...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, p)
		}
	}
	return b
}

// authorised is the response to a command with a password.
func authorised(b []byte) []byte {
	r := response(0, body(uint32(len(b)), b, uint16(0), byte(1), uint16(0))...)
	binary.BigEndian.PutUint16(r, uint16(tpm2.TPMSTSessions))
	return r
}

// TestHostileTPM: a response that is well-formed, and is not what was asked for.
func TestHostileTPM(t *testing.T) {
	const index = tpm2.TPMHandle(0x01c00002)
	// public is the answer about an NV index, with a Name that is right for it.
	public := func(index tpm2.TPMHandle, size uint16, written bool) []byte {
		pub := tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
			Attributes: tpm2.TPMANV{AuthRead: true, Written: written}}
		name, err := tpm2.NVName(&pub)
		if err != nil {
			t.Fatal(err)
		}
		return response(0, body(tpm2.New2B(pub), uint16(len(name.Buffer)), name.Buffer)...)
	}
	otherName := slices.Clone(public(index, 8, true))
	otherName[len(otherName)-1]++
	// values is the answer to PCRRead: one value of the given size for each of n PCRs.
	values := func(n, size int, pcrs ...int) []byte {
		b := body(uint32(1), tpm.Selection(tpm2.TPMAlgSHA256, pcrs...), uint32(n))
		for range n {
			b = body(b, uint16(size), make([]byte, size))
		}
		return response(0, b...)
	}
	noBanks := response(0, body(byte(0), uint32(tpm2.TPMCapPCRs), uint32(0))...)
	endless := response(0, body(byte(1), uint32(tpm2.TPMCapHandles), uint32(1), uint32(0x80000000))...)

	readNV := func(ctx context.Context, tp *tpm.TPM) error { _, err := tp.ReadNV(ctx, index); return err }
	readPCRs := func(ctx context.Context, tp *tpm.TPM) error {
		_, err := tp.ReadPCRs(ctx, tpm2.TPMAlgSHA256, []int{1, 2})
		return err
	}
	for _, c := range []struct {
		want    string
		do      func(context.Context, *tpm.TPM) error
		answers map[tpm2.TPMCC][]byte
	}{
		{"", readNV, map[tpm2.TPMCC][]byte{
			tpm2.TPMCCNVReadPublic: public(index, 8, true), tpm2.TPMCCNVRead: authorised(body(uint16(8), make([]byte, 8)))}},
		{"8 bytes instead of 9", readNV, map[tpm2.TPMCC][]byte{
			tpm2.TPMCCNVReadPublic: public(index, 9, true), tpm2.TPMCCNVRead: authorised(body(uint16(8), make([]byte, 8)))}},
		{"0 bytes instead of 8", readNV, map[tpm2.TPMCC][]byte{
			tpm2.TPMCCNVReadPublic: public(index, 8, true), tpm2.TPMCCNVRead: authorised(body(uint16(0)))}},
		{"never written", readNV, map[tpm2.TPMCC][]byte{tpm2.TPMCCNVReadPublic: public(index, 8, false)}},
		{"16385 bytes, more than", readNV, map[tpm2.TPMCC][]byte{tpm2.TPMCCNVReadPublic: public(index, tpm.MaxNVSize+1, true)}},
		{"the Name is not", readNV, map[tpm2.TPMCC][]byte{tpm2.TPMCCNVReadPublic: public(index+1, 8, true)}},
		{"the Name is not", readNV, map[tpm2.TPMCC][]byte{tpm2.TPMCCNVReadPublic: otherName}},
		{"", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(2, 32, 1, 2)}},
		{"1 values for 2 PCRs", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(1, 32, 1, 2)}},
		{"3 values for 2 PCRs", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(3, 32, 1, 2)}},
		{"PCR 3 was not asked for", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(2, 32, 1, 3)}},
		{"its value is 31 bytes", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(2, 31, 1, 2)}},
		{"not active: no PCR [1 2]", readPCRs, map[tpm2.TPMCC][]byte{tpm2.TPMCCPCRRead: values(0, 32)}},
		{"the TPM has none at all", func(ctx context.Context, tp *tpm.TPM) error { _, err := tp.Banks(ctx); return err },
			map[tpm2.TPMCC][]byte{tpm2.TPMCCGetCapability: noBanks}},
		{"handles without end", func(ctx context.Context, tp *tpm.TPM) error { return tp.Flush(ctx) },
			map[tpm2.TPMCC][]byte{tpm2.TPMCCGetCapability: endless, tpm2.TPMCCFlushContext: response(0)}},
	} {
		err := c.do(t.Context(), tpm.New("liar", &liar{answers: c.answers}))
		if c.want == "" && err != nil {
			t.Errorf("an honest answer: %v", err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("error is %v, want one with %q", err, c.want)
		}
	}
}

// TestImpossiblePCRs are refused before the TPM is asked.
func TestImpossiblePCRs(t *testing.T) {
	banks := response(0, body(byte(0), uint32(tpm2.TPMCapPCRs), tpm.Selection(tpm2.TPMAlgSHA256, 0))...)
	for _, index := range []int{-1, 24, 1 << 20} {
		tp := tpm.New("liar", &liar{answers: map[tpm2.TPMCC][]byte{tpm2.TPMCCGetCapability: banks}})
		_, read := tp.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{0, index})
		extend := tp.Extend(t.Context(), index, map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: make([]byte, 32)})
		for _, err := range []error{read, extend} {
			if err == nil || !strings.Contains(err.Error(), "there are only 24") {
				t.Errorf("PCR %d: %v", index, err)
			}
		}
	}
}

// TestImpossibleCommands are not sent.
func TestImpossibleCommands(t *testing.T) {
	for _, size := range []int{0, 9, 4097} {
		d := &device{responses: [][]byte{response(0)}}
		if _, err := tpm.New("fake", d).Send(make([]byte, size)); err == nil || !strings.Contains(err.Error(), "cannot be") || d.commands.Load() != 0 {
			t.Errorf("%d bytes: %v after %d commands", size, err, d.commands.Load())
		}
	}
}

func TestMalformedResponse(t *testing.T) {
	claims := func(size uint32) []byte {
		r := append(response(0), make([]byte, 4087)...)
		binary.BigEndian.PutUint32(r[2:], size)
		return r
	}
	for name, c := range map[string]struct {
		response []byte
		want     string
	}{
		"nothing":   {[]byte{}, io.ErrNoProgress.Error()},
		"cut":       {response(0)[:9], "read after 9 bytes"},
		"cut body":  {response(0, 1, 2)[:11], "read after 11 bytes"},
		"trailing":  {append(response(0), 1), "1 bytes after its end"},
		"too short": {claims(9), "it says that it is 9 bytes"},
		"too long":  {claims(4097), "it says that it is 4097 bytes"},
		"huge":      {claims(1 << 31), "it says that it is 2147483648 bytes"},
	} {
		d := &device{responses: [][]byte{c.response}}
		tp := tpm.New("fake", d)
		if got, err := tp.Send(command); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %x, %v, want an error with %q", name, got, err, c.want)
		}
		d.responses = [][]byte{response(0)}
		if got, err := tp.Send(command); err == nil || !strings.Contains(err.Error(), "broken since") {
			t.Errorf("%s: the connection is still used: %x, %v", name, got, err)
		}
	}
	whole := response(0, make([]byte, 4086)...)
	if got, err := tpm.New("fake", &device{responses: [][]byte{whole}}).Send(command); err != nil || len(got) != 4096 {
		t.Errorf("the longest response: %d bytes, %v", len(got), err)
	}
	if _, err := tpm.New("fake", &device{}).Send(command); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a device that is gone: %v", err)
	}
}
