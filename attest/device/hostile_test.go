package device_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// roundTripper changes what a device says.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// lying returns a client whose evidence is changed on its way: by itself, having full use of its TPM.
func (s *site) lying(t testing.TB, m *machine, change func(*wire.Evidence)) *device.Client {
	c := s.client(m)
	next := c.HTTP.Transport
	c.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == wire.PathEvidence {
			raw, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			var e wire.Evidence
			if err := wire.Unmarshal(raw, &e); err != nil {
				return nil, err
			}
			change(&e)
			if raw, err = wire.Marshal(&e); err != nil {
				return nil, err
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		}
		return next.RoundTrip(r)
	})}
	return c
}

// withAK runs f with the AK of this site loaded.
func withAK(t testing.TB, m *machine, s *site, f func(tpm2.AuthHandle)) {
	t.Helper()
	templates, err := keys.AKs(&s.release.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(templates[0]),
	}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(m) //nolint:errcheck // a test's TPM
	f(tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)})
}

// requote quotes something else than was asked for.
func requote(t testing.TB, m *machine, s *site, e *wire.Evidence, data []byte, selection tpm2.TPMLPCRSelection) {
	withAK(t, m, s, func(ak tpm2.AuthHandle) {
		rsp, err := tpm2.Quote{SignHandle: ak, QualifyingData: tpm2.TPM2BData{Buffer: data},
			InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selection}.Execute(m)
		if err != nil {
			t.Fatal(err)
		}
		e.Quote, e.QuoteSignature = rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature)
	})
}

// certifyOther has the AK certify a key that is not the agent key.
func certifyOther(t testing.TB, m *machine, s *site, e *wire.Evidence, data []byte) {
	template, err := keys.AgentKey(&newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	other, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(*template),
	}.Execute(m)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm2.FlushContext{FlushHandle: other.ObjectHandle}.Execute(m) //nolint:errcheck // a test's TPM
	withAK(t, m, s, func(ak tpm2.AuthHandle) {
		rsp, err := tpm2.Certify{
			ObjectHandle: tpm2.AuthHandle{Handle: other.ObjectHandle, Name: other.Name, Auth: tpm2.PasswordAuth(nil)},
			SignHandle:   ak, QualifyingData: tpm2.TPM2BData{Buffer: data}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(m)
		if err != nil {
			t.Fatal(err)
		}
		e.Certify, e.CertifySig = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
	})
}

func selection(bank tpm2.TPMAlgID, index ...int) tpm2.TPMLPCRSelection {
	return keys.PCRs{Bank: bank, Index: index}.Selection()
}

// TestDenied: the device lies in one way each time, with a real TPM and all its rights, and attestd names the lie.
func TestDenied(t *testing.T) {
	m := start(t, tpmtest.Options{Banks: banksBoth})
	m.measureImage(t)
	other := start(t, tpmtest.Options{Identity: 2})
	all := []int{0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13}
	transcript := func(e *wire.Evidence) []byte { x := wire.Transcript(e.M1, e.M2); return x[:] }
	for name, c := range map[string]struct {
		change func(*site, *wire.Evidence)
		code   wire.Code
		says   string // in the reason: which PCR, which event, what was found
	}{
		"fewer PCRs": {func(s *site, e *wire.Evidence) {
			requote(t, m, s, e, transcript(e), selection(tpm2.TPMAlgSHA256, 0, 1, 2, 3, 4, 5, 6, 7, 11, 13))
		}, wire.CodeSelection, "found sha256 bitmap ff2800, expected sha256 bitmap ff3800"},
		"resettable PCR": {func(s *site, e *wire.Evidence) {
			requote(t, m, s, e, transcript(e), selection(tpm2.TPMAlgSHA256, append(slices.Clone(all), 16)...))
		}, wire.CodeSelection, "found sha256 bitmap ff3801, expected sha256 bitmap ff3800"},
		"no PCRs": {func(s *site, e *wire.Evidence) { requote(t, m, s, e, transcript(e), tpm2.TPMLPCRSelection{}) }, wire.CodeSelection, "expected sha256 bitmap ff3800"},
		"other bank": {func(s *site, e *wire.Evidence) {
			requote(t, m, s, e, transcript(e), selection(tpm2.TPMAlgSHA384, all...))
		}, wire.CodeSelection, "found sha384 bitmap ff3800, expected sha256 bitmap ff3800"},
		"both banks": {func(s *site, e *wire.Evidence) {
			both := selection(tpm2.TPMAlgSHA256, all...)
			both.PCRSelections = append(both.PCRSelections, selection(tpm2.TPMAlgSHA384, all...).PCRSelections...)
			requote(t, m, s, e, transcript(e), both)
		}, wire.CodeSelection, "found sha256 bitmap ff3800; sha384 bitmap ff3800, expected sha256 bitmap ff3800"},
		"other nonce": {func(s *site, e *wire.Evidence) {
			requote(t, m, s, e, make([]byte, 32), selection(tpm2.TPMAlgSHA256, all...))
		}, wire.CodeNonce, "made for another exchange: found 000000000000.."},
		"no nonce": {func(s *site, e *wire.Evidence) { requote(t, m, s, e, nil, selection(tpm2.TPMAlgSHA256, all...)) }, wire.CodeNonce, "made for another exchange"},
		"nonce cut": {func(s *site, e *wire.Evidence) {
			requote(t, m, s, e, transcript(e)[:31], selection(tpm2.TPMAlgSHA256, all...))
		}, wire.CodeNonce, "made for another exchange"},
		"certify blob as quote": {func(_ *site, e *wire.Evidence) { e.Quote, e.QuoteSignature = e.Certify, e.CertifySig }, wire.CodeQuoteFormat, "found type 0x8017, expected type 0x8018"},
		"quote as certify blob": {func(_ *site, e *wire.Evidence) { e.Certify, e.CertifySig = e.Quote, e.QuoteSignature }, wire.CodeCertify, "found type 0x8018, expected type 0x8017"},
		"another key certified": {func(s *site, e *wire.Evidence) { certifyOther(t, m, s, e, transcript(e)) }, wire.CodeCertify, "the AK certified another key"},
		"AK of another TPM": {func(s *site, e *wire.Evidence) {
			other.measureImageOnce(t)
			requote(t, other, s, e, transcript(e), selection(tpm2.TPMAlgSHA256, all...))
		}, wire.CodeSignature, "not signed by the AK of this request"},
		"signature of another statement": {func(_ *site, e *wire.Evidence) { e.QuoteSignature = e.CertifySig }, wire.CodeSignature, "not signed by the AK of this request"},
		"PCR value changed":              {func(_ *site, e *wire.Evidence) { e.PCRValues[9] = make([]byte, 32) }, wire.CodePCRDigest, "not those that were quoted"},
		"PCR value missing":              {func(_ *site, e *wire.Evidence) { e.PCRValues = e.PCRValues[1:] }, wire.CodePCRDigest, "10 values for 11 PCRs"},
		"no firmware log":                {func(_ *site, e *wire.Evidence) { e.FirmwareLog = nil }, wire.CodeReplay, "PCR 0"},
		"no loader log":                  {func(_ *site, e *wire.Evidence) { e.EventLog = nil }, wire.CodeReplay, "PCR 12"},
		"loader log cut":                 {func(_ *site, e *wire.Evidence) { e.EventLog = e.EventLog[:len(e.EventLog)-1] }, wire.CodeLog, "record 3"},
		"loader log edited": {func(_ *site, e *wire.Evidence) {
			e.EventLog = bytes.Replace(e.EventLog, []byte(`"size":6`), []byte(`"size":7`), 1)
		}, wire.CodeLog, "record 1: a digest is not that of the content (artifact)"},
		"firmware log cut": {func(_ *site, e *wire.Evidence) { e.FirmwareLog = e.FirmwareLog[:len(e.FirmwareLog)-1] }, wire.CodeLog, "event 38"},
		"firmware event of the wrong size": {func(_ *site, e *wire.Evidence) {
			e.FirmwareLog = append(e.FirmwareLog, firmwareEvent(4)...)
			e.FirmwareLog[len(e.FirmwareLog)-4]++ // it says that it has a byte of data
		}, wire.CodeLog, "event 39: cut short"},
		"loader event of the wrong size": {func(_ *site, e *wire.Evidence) {
			e.EventLog = append(e.EventLog, 0, 0, 0, 0, 7) // a record number of 7 bytes
			e.EventLog = append(e.EventLog, make([]byte, 7)...)
		}, wire.CodeLog, "record 4"},
		"firmware event in PCR 12": {func(_ *site, e *wire.Evidence) { e.FirmwareLog = append(e.FirmwareLog, firmwareEvent(12)...) }, wire.CodeForeignEvent, "PCR 12, #39 EV_IPL"},
		"firmware event in PCR 13": {func(_ *site, e *wire.Evidence) { e.FirmwareLog = append(e.FirmwareLog, firmwareEvent(13)...) }, wire.CodeForeignEvent, "PCR 13, #39 EV_IPL"},
		"firmware event too many":  {func(_ *site, e *wire.Evidence) { e.FirmwareLog = append(e.FirmwareLog, firmwareEvent(4)...) }, wire.CodeReplay, "PCR 4"},
		"other M1":                 {func(s *site, e *wire.Evidence) { e.M1 = otherRequest(t, e.M1) }, wire.CodeCookie, "for another request"},
		"M2 asks for less": {func(s *site, e *wire.Evidence) {
			e.M2 = changeChallenge(t, s, e, func(c *wire.Challenge) { c.PCRs = []int{0, 2, 4, 7, 12, 13} })
		}, wire.CodeCookie, "M2 is not as it was sent"},
		"M2 asks for another bank": {func(s *site, e *wire.Evidence) {
			e.M2 = changeChallenge(t, s, e, func(c *wire.Challenge) { c.Bank = "sha384" })
		}, wire.CodeCookie, "M2 is not as it was sent"},
		"cookie of one's own": {func(s *site, e *wire.Evidence) {
			e.M2 = changeChallenge(t, s, e, func(c *wire.Challenge) { c.Cookie[40] ^= 1 })
		}, wire.CodeCookie, "cookie is not ours"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "shop-1")
			_, err := s.lying(t, m, func(e *wire.Evidence) { c.change(s, e) }).Boot(context.Background(), m.logs())
			if got := reasonOf(err); got != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("denied for %q (%v), want %q that says %q", got, err, c.code, c.says)
			}
			if s.releases != 0 {
				t.Error("M4 left the server")
			}
		})
	}
}

// measureImageOnce measures the image unless that was done.
func (m *machine) measureImageOnce(t testing.TB) {
	if len(m.rec.Log()) == 0 {
		m.measureImage(t)
	}
}

// firmwareEvent is a crypto-agile event with a digest for both banks of the log.
func firmwareEvent(index uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, index)
	b = binary.LittleEndian.AppendUint32(b, uint32(fwlog.EventIPL))
	b = binary.LittleEndian.AppendUint32(b, 2)
	b = append(binary.LittleEndian.AppendUint16(b, 11), make([]byte, 32)...)
	b = append(binary.LittleEndian.AppendUint16(b, 12), make([]byte, 48)...)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// otherRequest is the same M1 with another nonce.
func otherRequest(t testing.TB, m1 []byte) []byte {
	t.Helper()
	_, d, err := wire.ParseRequest(m1)
	if err != nil {
		t.Fatal(err)
	}
	d.Nonce[0] ^= 1
	raw, err := wire.NewRequest(d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// changeChallenge changes M2 and signs it anew, which not even attestd would do.
func changeChallenge(t testing.TB, s *site, e *wire.Evidence, change func(*wire.Challenge)) []byte {
	t.Helper()
	var c wire.Challenge
	if err := wire.Payload(e.M2, &c); err != nil {
		t.Fatal(err)
	}
	change(&c)
	raw, err := wire.Sign(s.server, wire.DomainChallenge, wire.HashMessage(e.M1), &c)
	if err != nil {
		t.Fatal(err)
	}
	// The quote has to be for the changed message, or it would be denied for that alone.
	return raw
}

// TestMarkers: what stands in PCR 12 decides what can be had.
func TestMarkers(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		record event.Type
		renew  bool
		code   wire.Code
	}{
		"release after the cap":  {event.TypeCap, false, wire.CodePhase},
		"release after a shell":  {event.TypeShell, false, wire.CodePhase},
		"release after failing":  {event.TypeFailed, false, wire.CodePhase},
		"renewal before the cap": {"", true, wire.CodePhase},
		"renewal after a shell":  {event.TypeShell, true, wire.CodePhase},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t, tpmtest.Options{})
			m.measureImage(t)
			if c.record != "" {
				m.record(t, event.PCRImage, event.Record{Type: c.record})
			}
			s := newSite(t, "shop-1")
			var err error
			if c.renew {
				_, err = s.client(m).Renew(ctx, m.logs())
			} else {
				_, err = s.client(m).Boot(ctx, m.logs())
			}
			if got := reasonOf(err); got != c.code || s.releases != 0 || !strings.Contains(err.Error(), string(c.record)) {
				t.Errorf("denied for %q (%v), want %q for %q; %d releases", got, err, c.code, c.record, s.releases)
			}
		})
	}
}

// TestReplayedEvidence sends captured evidence again.
func TestReplayedEvidence(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s, neighbour := newSite(t, "shop-1"), newSite(t, "shop-2")
	neighbour.CookieKey = s.CookieKey // even if two sites shared it
	neighbour.ReleaseKey = s.ReleaseKey
	if _, err := s.client(m).Boot(ctx, m.logs()); err != nil {
		t.Fatal(err)
	}
	m3 := s.received[wire.PathEvidence]
	for name, c := range map[string]struct {
		site *site
		now  func() time.Time
		code wire.Code
	}{
		"at once":         {s, time.Now, wire.CodeReplayed},
		"after expiry":    {s, func() time.Time { return time.Now().Add(wire.CookieLife + time.Second) }, wire.CodeExpired},
		"from the future": {s, func() time.Time { return time.Now().Add(-time.Hour) }, wire.CodeExpired},
		"at another site": {neighbour, time.Now, wire.CodeCookie},
	} {
		t.Run(name, func(t *testing.T) {
			c.site.now = c.now
			before := c.site.releases
			resp, err := c.site.srv.Client().Post(c.site.srv.URL+wire.PathEvidence, wire.ContentType, bytes.NewReader(m3))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			var f wire.Failure
			if err := wire.Unmarshal(raw, &f); err != nil || f.Code != c.code || c.site.releases != before {
				t.Errorf("answer %+v, %v; want %q", f, err, c.code)
			}
		})
	}
}

// TestFakeServer: everything that a man in the middle can replay or make himself is refused by the device.
func TestFakeServer(t *testing.T) {
	ctx := context.Background()
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	c := s.client(m)
	if _, err := c.Hello(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Boot(ctx, m.logs()); err != nil {
		t.Fatal(err)
	}
	recorded := map[string][]byte{}
	for path, answer := range s.sent {
		recorded[path] = answer
	}
	for _, path := range []string{wire.PathHello, wire.PathChallenge, wire.PathEvidence} {
		t.Run("replayed "+path, func(t *testing.T) {
			s.change = func(p string, answer []byte) []byte {
				if p == path {
					return recorded[path]
				}
				return answer
			}
			var err error
			if path == wire.PathHello {
				_, err = c.Hello(ctx, "")
			} else {
				_, err = c.Boot(ctx, m.logs())
			}
			if !errors.Is(err, device.ErrServerSignature) {
				t.Errorf("got %v, want ErrServerSignature", err)
			}
		})
	}
	t.Run("other server key", func(t *testing.T) {
		s.change = nil
		evil := *c
		evil.ServerKey = &newKey(t).PublicKey
		if _, err := evil.Boot(ctx, m.logs()); !errors.Is(err, device.ErrServerSignature) {
			t.Errorf("got %v, want ErrServerSignature", err)
		}
	})
	t.Run("own seal key under an old approval", func(t *testing.T) {
		// The worst case: he even has the server key. What he does not have is the release key.
		s.change = func(p string, answer []byte) []byte {
			if p != wire.PathEvidence {
				return answer
			}
			return plant(t, s, recorded[wire.PathEvidence])
		}
		if _, err := c.Boot(ctx, m.logs()); !errors.Is(err, device.ErrTPMPolicy) {
			t.Errorf("got %v, want ErrTPMPolicy", err)
		}
	})
	t.Run("recorded release, signed anew", func(t *testing.T) {
		attack := func(p string, answer []byte) []byte {
			if p != wire.PathEvidence {
				return answer
			}
			return resign(t, s, recorded[wire.PathEvidence])
		}
		s.change = attack
		// In the boot that it was made for, the TPM opens it; the box belongs to another exchange.
		if _, err := c.Boot(ctx, m.logs()); !errors.Is(err, device.ErrProtocol) {
			t.Errorf("in the same boot: %v, want ErrProtocol", err)
		}
		// In later ones, with the very same PCRs, the TPM refuses. A restart comes first: it alone leaves the count of resets.
		for _, boot := range []struct {
			name  string
			start func(testing.TB)
		}{{"restart", m.Restart}, {"reset", m.Reset}} {
			boot.start(t)
			m.bootFirmware(t)
			m.measureImage(t)
			s.change = attack
			if _, err := c.Boot(ctx, m.logs()); !errors.Is(err, device.ErrTPMPolicy) {
				t.Errorf("after a %s of the TPM: %v, want ErrTPMPolicy", boot.name, err)
			}
			s.change = nil
			if _, err := c.Boot(ctx, m.logs()); err != nil {
				t.Errorf("after a %s of the TPM, with a release of its own: %v", boot.name, err)
			}
		}
	})
}

// resign makes an old M4 the answer to this exchange.
func resign(t testing.TB, s *site, old []byte) []byte {
	var r wire.Release
	err := wire.Payload(old, &r)
	var raw []byte
	if err == nil {
		raw, err = wire.Sign(s.server, wire.DomainRelease, s.verdict.Verified.Transcript, &r)
	}
	if err != nil {
		t.Error(err)
	}
	return raw
}

// plant makes an M4 with a credential and a seal key of one's own and the approval of an old M4.
func plant(t testing.TB, s *site, old []byte) []byte {
	var r wire.Release
	if err := wire.Payload(old, &r); err != nil {
		t.Error(err)
		return nil
	}
	v := s.verdict.Verified
	k := make([]byte, wire.KeySize)
	credential, err := keys.MakeCredential(v.EK, v.AKName, k)
	if err != nil {
		t.Error(err)
		return nil
	}
	r.Credential, r.EncryptedSecret = credential.Blob, credential.Secret
	secrets := s.secrets
	secrets.SealKey = make([]byte, 32)
	if r.Box, err = wire.SealSecrets(k, v.Transcript, r.Decision, &secrets); err != nil {
		t.Error(err)
	}
	raw, err := wire.Sign(s.server, wire.DomainRelease, v.Transcript, &r)
	if err != nil {
		t.Error(err)
	}
	return raw
}

// TestMeasuredBetween: between quote and activation a PCR moves. A selected one ends the boot, by the TPM's own
// refusal; another one does not matter.
func TestMeasuredBetween(t *testing.T) {
	for name, c := range map[string]struct {
		index int
		ok    bool
	}{"PCR 12": {12, false}, "PCR 0": {0, false}, "PCR 15": {15, true}, "PCR 10": {10, true}} {
		t.Run(name, func(t *testing.T) {
			m := start(t, tpmtest.Options{})
			m.measureImage(t)
			s := newSite(t, "shop-1")
			s.change = func(path string, answer []byte) []byte {
				if path == wire.PathEvidence {
					m.extendRaw(t, c.index)
				}
				return answer
			}
			_, err := s.client(m).Boot(context.Background(), m.logs())
			if c.ok && err != nil || !c.ok && !errors.Is(err, device.ErrTPMPolicy) {
				t.Errorf("Boot() = %v", err)
			}
		})
	}
}
