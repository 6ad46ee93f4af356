package tpm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var bothBanks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}

func response(code uint32, body ...byte) []byte {
	b := []byte{0x80, 0x01}
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body)))
	b = binary.BigEndian.AppendUint32(b, code)
	return append(b, body...)
}

// device answers each command with the next of the responses, one read each, as
// /dev/tpmrm0 does. A nil response blocks until the device is closed.
type device struct {
	responses [][]byte
	commands  atomic.Int32
	release   chan struct{}
}

func (d *device) Write(b []byte) (int, error) {
	d.commands.Add(1)
	return len(b), nil
}

func (d *device) Read(b []byte) (int, error) {
	if len(d.responses) == 0 {
		return 0, io.EOF
	}
	r := d.responses[0]
	d.responses = d.responses[1:]
	if r == nil {
		<-d.release
		r = response(0, 0xee)
	}
	return copy(b, r), nil
}

func (d *device) Close() error { return nil }

var command = response(0x17b) // a header is all that the transport looks at

func TestSendRepeatsWhatTheTPMDidNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{responses: [][]byte{
			response(uint32(tpm2.TPMRCRetry)), response(uint32(tpm2.TPMRCYielded)),
			response(uint32(tpm2.TPMRCTesting)), response(0, 1, 2)}}
		got, err := tpm.New("fake", d).Send(command)
		if err != nil || !bytes.Equal(got, response(0, 1, 2)) || d.commands.Load() != 4 {
			t.Errorf("Send() = %x, %v after %d commands", got, err, d.commands.Load())
		}
	})
}

func TestSendRepeatsNothingElse(t *testing.T) {
	want := response(uint32(tpm2.TPMRCFailure))
	d := &device{responses: [][]byte{want}}
	got, err := tpm.New("fake", d).Send(command)
	if err != nil || !bytes.Equal(got, want) || d.commands.Load() != 1 {
		t.Errorf("Send() = %x, %v after %d commands", got, err, d.commands.Load())
	}
}

type busyForEver struct{ *device }

func (busyForEver) Read(b []byte) (int, error) {
	return copy(b, response(uint32(tpm2.TPMRCRetry))), nil
}

// TestSendGivesUp asks a TPM that is busy for ever. Only a command that makes a
// key is given more time.
func TestSendGivesUp(t *testing.T) {
	for code, want := range map[tpm2.TPMCC]time.Duration{tpm2.TPMCCPCRRead: tpm.CommandTimeout, tpm2.TPMCCCreatePrimary: tpm.KeyTimeout} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_, err := tpm.New("fake", busyForEver{&device{}}).Send(response(uint32(code)))
			if !errors.Is(err, tpm.ErrTimeout) || !strings.Contains(err.Error(), "fake, command") || !strings.Contains(err.Error(), "busy") {
				t.Errorf("Send() error = %v; want ErrTimeout of a named TPM that is busy", err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("%v: gave up after %v, want %v", code, took, want)
			}
		})
	}
}

func TestHungTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &device{responses: [][]byte{nil, response(0, 7)}, release: make(chan struct{})}
		tp := tpm.New("fake", d)
		if _, err := tp.Send(command); !errors.Is(err, tpm.ErrTimeout) {
			t.Errorf("first Send() error = %v; want ErrTimeout", err)
		}
		// Anyone who comes next must wait for the first response, and have his own.
		if _, err := tp.Send(command); !errors.Is(err, tpm.ErrTimeout) || d.commands.Load() != 1 {
			t.Errorf("second Send() error = %v after %d commands; want ErrTimeout", err, d.commands.Load())
		}
		close(d.release)
		if got, err := tp.Send(command); err != nil || !bytes.Equal(got, response(0, 7)) {
			t.Errorf("third Send() = %x, %v; want its own response", got, err)
		}
	})
}

// TestDriverGivesUp: the kernel has stopped waiting, which is no other failure than if we had.
func TestDriverGivesUp(t *testing.T) {
	if _, err := tpm.New("fake", gaveUp{&device{}}).Send(command); !errors.Is(err, tpm.ErrTimeout) || !errors.Is(err, syscall.ETIME) {
		t.Errorf("Send() error = %v; want ErrTimeout", err)
	}
}

type gaveUp struct{ *device }

func (gaveUp) Write([]byte) (int, error) { return 0, syscall.ETIME }

func TestCancelledContextSendsNothing(t *testing.T) {
	d := &device{responses: [][]byte{response(0)}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tpm.New("fake", d).With(ctx).Send(command); !errors.Is(err, context.Canceled) || d.commands.Load() != 0 {
		t.Errorf("Send() error = %v after %d commands; want Canceled and none", err, d.commands.Load())
	}
}

func TestStreamInPieces(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close()
	want := response(0, bytes.Repeat([]byte{5}, 300)...)
	go func() {
		io.ReadFull(server, make([]byte, len(command)))
		for _, b := range want {
			server.Write([]byte{b})
		}
	}()
	got, err := tpm.New("pipe", client).Send(command)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Send() = %x, %v", got, err)
	}
}

// TestOpenWaits for a device that may still come, and for nothing else.
func TestOpenWaits(t *testing.T) {
	for addr, want := range map[string]time.Duration{filepath.Join("/nonexistent", "tpmrm0"): 5 * time.Second, "/": 0} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_, err := tpm.Open(t.Context(), addr)
			if err == nil || !strings.Contains(err.Error(), "open TPM "+addr) {
				t.Errorf("%s: %v", addr, err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("%s: gave up after %v, want %v", addr, took, want)
			}
		})
	}
}

func TestExtendAndRead(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{Banks: bothBanks})
	digests := map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: bytes.Repeat([]byte{1}, 32), tpm2.TPMAlgSHA384: bytes.Repeat([]byte{2}, 48)}
	if err := tp.Extend(t.Context(), 12, digests); err != nil {
		t.Fatal(err)
	}
	all := make([]int, pcr.Count)
	for i := range all {
		all[i] = i
	}
	for _, bank := range bothBanks {
		hash, err := pcr.Hash(bank)
		if err != nil {
			t.Fatal(err)
		}
		h := hash.New()
		h.Write(make([]byte, hash.Size()))
		h.Write(digests[bank])
		got, err := tp.ReadPCRs(t.Context(), bank, all)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(all) {
			t.Errorf("%d PCRs, want %d", len(got), len(all))
		}
		if diff := cmp.Diff(h.Sum(nil), got[12]); diff != "" {
			t.Errorf("PCR 12 of %s (-want +got):\n%s", pcr.BankName(bank), diff)
		}
		if !bytes.Equal(got[13], make([]byte, hash.Size())) {
			t.Errorf("PCR 13 of %s is %x", pcr.BankName(bank), got[13])
		}
	}
}

func TestExtendRefusesToLeaveABankOut(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{Banks: bothBanks})
	sum256, sum384 := make([]byte, 32), make([]byte, 48)
	for _, c := range []struct {
		want    string
		digests map[tpm2.TPMAlgID][]byte
	}{
		{"no digest for active bank sha256", nil},
		{"no digest for active bank sha384", map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: sum256}},
		{"bank sha384 is 32 bytes, not 48", map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: sum256, tpm2.TPMAlgSHA384: sum256}},
		{"3 digests for 2 active banks", map[tpm2.TPMAlgID][]byte{
			tpm2.TPMAlgSHA256: sum256, tpm2.TPMAlgSHA384: sum384, tpm2.TPMAlgSHA1: make([]byte, 20)}},
	} {
		if err := tp.Extend(t.Context(), 12, c.digests); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Extend() error = %v; want one with %q", err, c.want)
		}
	}
	got, err := tp.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{12})
	if err != nil || !bytes.Equal(got[12], sum256) {
		t.Errorf("PCR 12 = %x, %v; want zero", got[12], err)
	}
}

func TestReadInactiveBank(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	if _, err := tp.ReadPCRs(t.Context(), tpm2.TPMAlgSHA384, []int{0}); !errors.Is(err, tpm.ErrBank) {
		t.Errorf("ReadPCRs() error = %v; want ErrBank", err)
	}
}

// extender extends PCR 14 behind the back of anyone who reads PCRs over conn.
type extender struct {
	io.ReadWriteCloser
	tp    *tpm.TPM
	times atomic.Int32
}

func TestReadPCRsIsASnapshot(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	for _, times := range []int32{1, 100} {
		e := &extender{tp: tp.TPM}
		e.times.Store(times)
		through := tpm.New("through", e)
		got, err := through.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14})
		if times == 1 && (err != nil || len(got) != 14) {
			t.Errorf("one extend: ReadPCRs() = %v, %v", got, err)
		}
		if times == 100 && err == nil {
			t.Error("ReadPCRs() succeeded although PCRs were extended all the time")
		}
	}
}

func (e *extender) Write(b []byte) (int, error) {
	rsp, err := e.tp.Send(b)
	if err != nil {
		return 0, err
	}
	if e.times.Add(-1) >= 0 {
		err = e.tp.Extend(context.Background(), 14, map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: make([]byte, 32)})
	}
	e.ReadWriteCloser = struct {
		io.Reader
		io.Writer
		io.Closer
	}{Reader: bytes.NewReader(rsp)}
	return len(b), err
}

func TestFlush(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	for range 2 {
		if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(tp); err != nil {
			t.Fatal(err)
		}
	}
	var saved []tpm2.TPMHandle
	for i, start := range []func() (tpm2.Session, func() error, error){
		func() (tpm2.Session, func() error, error) {
			return tpm2.PolicySession(tp, tpm2.TPMAlgSHA256, 16)
		},
		func() (tpm2.Session, func() error, error) { return tpm2.HMACSession(tp, tpm2.TPMAlgSHA256, 16) },
		func() (tpm2.Session, func() error, error) { return tpm2.HMACSession(tp, tpm2.TPMAlgSHA256, 16) },
	} {
		session, _, err := start()
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			continue
		}
		if _, err := (tpm2.ContextSave{SaveHandle: session.Handle()}).Execute(tp); err != nil {
			t.Fatal(err)
		}
		saved = append(saved, session.Handle())
	}
	if err := tp.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 10}.Execute(tp)
		if err != nil {
			t.Fatal(err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil || len(list.Handle) != 0 {
			t.Errorf("handles from %#x after Flush (saved %x): %x, %v", first, saved, list.Handle, err)
		}
	}
}

func TestReadNVMissing(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{EK: tpmtest.NoEK})
	if _, err := tp.ReadNV(t.Context(), tpmtest.RSA2048Index); !errors.Is(err, tpm.ErrNoNV) {
		t.Errorf("ReadNV() error = %v; want ErrNoNV", err)
	}
}
