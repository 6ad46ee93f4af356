package device_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// bus is the wire between processor and TPM, with somebody on it.
type bus struct {
	tpm    *tpm.TPM
	before func(cc tpm2.TPMCC)
	refuse func(cc tpm2.TPMCC) bool // the TPM does not know the algorithm
	forge  func(cc tpm2.TPMCC, response []byte)
	sent   map[tpm2.TPMCC][]byte // last response by command
	buf    bytes.Buffer
}

func (b *bus) Write(command []byte) (int, error) {
	cc := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
	if b.before != nil {
		b.before(cc)
	}
	if b.refuse != nil && b.refuse(cc) {
		b.buf.Write([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x02, 0xc3}) // TPM_RC_ASYMMETRIC, parameter 2
		return len(command), nil
	}
	response, err := b.tpm.Send(command)
	if err != nil {
		return 0, err
	}
	if b.forge != nil {
		b.forge(cc, response)
	}
	b.sent[cc] = response
	b.buf.Write(response)
	return len(command), nil
}

func (b *bus) Read(p []byte) (int, error) { return b.buf.Read(p) }
func (b *bus) Close() error               { return nil }

// TestPCRChanged: somebody extends a PCR that no one selected just before the activation. The TPM then wants the
// policy to be run again; the device does that a bounded number of times.
func TestPCRChanged(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		want  error
	}{"once": {1, nil}, "always": {1000, device.ErrTPM}} {
		t.Run(name, func(t *testing.T) {
			m := start(t, tpmtest.Options{})
			m.measureImage(t)
			s := newSite(t, "shop-1")
			left := c.times
			b := &bus{tpm: m.TPM.TPM, sent: map[tpm2.TPMCC][]byte{}, before: func(cc tpm2.TPMCC) {
				if cc == tpm2.TPMCCActivateCredential && left > 0 {
					left--
					m.extendRaw(t, 15)
				}
			}}
			client := s.client(m)
			client.TPM = tpm.New("bus", b)
			_, err := client.Boot(context.Background(), m.logs())
			if !errors.Is(err, c.want) {
				t.Errorf("Boot() = %v, want %v", err, c.want)
			}
			if left == c.times {
				t.Error("the activation was never seen")
			}
		})
	}
}

// TestRSAAK: a TPM that cannot make the preferred AK gets the other one.
func TestRSAAK(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	created := 0
	client := s.client(m)
	client.TPM = tpm.New("bus", &bus{tpm: m.TPM.TPM, sent: map[tpm2.TPMCC][]byte{}, refuse: func(cc tpm2.TPMCC) bool {
		if cc == tpm2.TPMCCCreatePrimary {
			created++
		}
		return cc == tpm2.TPMCCCreatePrimary && created == 1 // the EK is persistent: the first key made is the AK
	}})
	if _, err := client.Boot(context.Background(), m.logs()); err != nil {
		t.Fatal(err)
	}
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](s.verdict.Verified.Device.AKPublic)
	if err != nil || ak.Type != tpm2.TPMAlgRSA {
		t.Errorf("AK is %v, %v", ak, err)
	}
}

// TestBusSeesNoSecret: what the TPM answers to the activation is of no use to a probe on the bus.
func TestBusSeesNoSecret(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	b := &bus{tpm: m.TPM.TPM, sent: map[tpm2.TPMCC][]byte{}}
	client := s.client(m)
	client.TPM = tpm.New("bus", b)
	if _, err := client.Boot(context.Background(), m.logs()); err != nil {
		t.Fatal(err)
	}
	var r wire.Release
	if err := wire.Payload(s.sent[wire.PathEvidence], &r); err != nil {
		t.Fatal(err)
	}
	response := b.sent[tpm2.TPMCCActivateCredential]
	if len(response) < 16+wire.KeySize {
		t.Fatalf("response of %d bytes", len(response))
	}
	// Header, parameter size, size of the TPM2B, then K as the bus sees it.
	k := response[16 : 16+wire.KeySize]
	if _, err := wire.OpenSecrets(k, s.verdict.Verified.Transcript, r.Decision, r.Box); err == nil {
		t.Error("the key crosses the bus in clear")
	}
}

// TestBadServer: attestd cannot be reached, or answers something else. Every failure has its type.
func TestBadServer(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	answer := func(status int, header http.Header, body string) roundTripper {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: header,
				Body: io.NopCloser(strings.NewReader(body))}, nil
		}
	}
	for name, c := range map[string]struct {
		transport http.RoundTripper
		want      error
	}{
		"no connection": {roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") }), device.ErrUnreachable},
		"body breaks off": {roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))}, nil
		}), device.ErrUnreachable},
		"garbage":        {answer(200, nil, "<html>"), device.ErrProtocol},
		"too much":       {answer(200, nil, strings.Repeat(" ", wire.MaxMessage+1)), device.ErrProtocol},
		"proxy error":    {answer(502, nil, "<html>Bad Gateway"), device.ErrUnreachable},
		"not decided":    {answer(503, nil, `{"version":1,"code":"unavailable"}`), device.ErrUnreachable},
		"redirected":     {answer(307, http.Header{"Location": {"https://evil.example/"}}, ""), device.ErrUnreachable},
		"unknown device": {answer(403, nil, `{"version":1,"code":"device-unknown"}`), device.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			client := s.client(m)
			client.HTTP = &http.Client{Transport: c.transport}
			if _, err := client.Hello(context.Background(), ""); !errors.Is(err, c.want) {
				t.Errorf("Hello() = %v, want %v", err, c.want)
			}
			if _, err := client.Boot(context.Background(), m.logs()); !errors.Is(err, c.want) {
				t.Errorf("Boot() = %v, want %v", err, c.want)
			}
			if err := client.Ack(context.Background(), &device.Release{}); name != "garbage" && name != "too much" && !errors.Is(err, c.want) {
				t.Errorf("Ack() = %v, want %v", err, c.want)
			}
		})
	}
	client := s.client(m)
	if err := client.Report(context.Background(), "", "fetch", errors.New("no\nsuch image")); err != nil {
		t.Error(err)
	}
	var report wire.Report
	if err := wire.Unmarshal(s.received[wire.PathReport], &report); err != nil || report.Reason != "no; such image" {
		t.Errorf("report %+v, %v", report, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := client.Boot(ctx, m.logs()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := client.TPM.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestHandlesAreFlushed: after success and after failure nothing is left in the TPM.
func TestHandlesAreFlushed(t *testing.T) {
	m := start(t, tpmtest.Options{EK: tpmtest.P256})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	for range 6 { // a TPM holds three objects and three sessions
		if _, err := s.client(m).Boot(context.Background(), m.logs()); err != nil {
			t.Fatal(err)
		}
	}
	s.change = func(path string, answer []byte) []byte { return answer[:len(answer)/2] }
	for range 6 {
		if _, err := s.client(m).Boot(context.Background(), m.logs()); !errors.Is(err, device.ErrProtocol) {
			t.Fatal(err)
		}
	}
	for _, first := range []tpm2.TPMHandle{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 8}.Execute(m)
		if err != nil {
			t.Fatal(err)
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil || len(handles.Handle) != 0 {
			t.Errorf("left in the TPM: %x, %v", handles.Handle, err)
		}
	}
}
