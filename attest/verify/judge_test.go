package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/verify/verifytest"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
)

// exchange is good evidence, taken apart to be spoiled.
type exchange struct {
	*world
	t        *testing.T
	e        wire.Evidence
	now      time.Time
	judge    *verify.Site // whom it is sent to; at first who asked for it
	appraise verify.Appraiser
}

// ask runs an exchange with the world's device whose M1 is changed first.
func (w *world) ask(t *testing.T, change func(*wire.Device)) *exchange {
	t.Helper()
	m1, err := w.device.Request(w.site.Name)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		_, d, err := wire.ParseRequest(m1)
		if err != nil {
			t.Fatal(err)
		}
		change(d)
		if m1, err = wire.NewRequest(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	x := &exchange{world: w, t: t, now: time.Now(), judge: w.site, appraise: agree}
	m2, _, err := w.site.Challenge(x.now, m1, w.server)
	if err != nil {
		t.Fatal(err)
	}
	m3, err := w.device.Evidence(m1, m2)
	if err != nil {
		t.Fatal(err)
	}
	if err := wire.Unmarshal(m3, &x.e); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *exchange) verdict() *verify.Verdict {
	x.t.Helper()
	m3, err := wire.Marshal(&x.e)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.judge.Judge(x.now, m3, x.appraise)
}

// quote has the AK sign a quote that is changed first.
func (x *exchange) quote(change func(t *[32]byte, info *tpm2.TPMSQuoteInfo)) {
	x.t.Helper()
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](x.e.Quote)
	if err != nil {
		x.t.Fatal(err)
	}
	info, err := a.Attested.Quote()
	if err != nil {
		x.t.Fatal(err)
	}
	t := wire.Transcript(x.e.M1, x.e.M2)
	change(&t, info)
	x.e.Quote, x.e.QuoteSignature, err = x.device.Attest(t, tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, info))
	if err != nil {
		x.t.Fatal(err)
	}
}

// certify has the AK vouch for a key that is changed first.
func (x *exchange) certify(change func(t *[32]byte, info *tpm2.TPMSCertifyInfo)) {
	x.t.Helper()
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](x.e.Certify)
	if err != nil {
		x.t.Fatal(err)
	}
	info, err := a.Attested.Certify()
	if err != nil {
		x.t.Fatal(err)
	}
	t := wire.Transcript(x.e.M1, x.e.M2)
	change(&t, info)
	x.e.Certify, x.e.CertifySig, err = x.device.Attest(t, tpm2.TPMSTAttestCertify, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, info))
	if err != nil {
		x.t.Fatal(err)
	}
}

// challenge replaces M2 by one of the server's that says something else than the cookie in it.
func (x *exchange) challenge(change func(*wire.Challenge)) {
	x.t.Helper()
	var c wire.Challenge
	if err := wire.Payload(x.e.M2, &c); err != nil {
		x.t.Fatal(err)
	}
	change(&c)
	m2, err := wire.Sign(x.server, wire.DomainChallenge, wire.HashMessage(x.e.M1), &c)
	if err != nil {
		x.t.Fatal(err)
	}
	x.e.M2 = m2
}

// log replaces the loader's log.
func (x *exchange) log(entries []cel.Entry) {
	x.t.Helper()
	var err error
	if x.e.EventLog, err = cel.Marshal(entries); err != nil {
		x.t.Fatal(err)
	}
}

func (x *exchange) entry(number uint64, index int, r event.Record) cel.Entry {
	x.t.Helper()
	e, err := cel.New(number, index, r, []tpm2.TPMAlgID{verifytest.Bank})
	if err != nil {
		x.t.Fatal(err)
	}
	return e
}

// TestJudge spoils one thing in good evidence and wants to be told which.
func TestJudge(t *testing.T) {
	w := newWorld(t)
	if v := w.ask(t, nil).verdict(); !v.Allowed() {
		t.Fatal(v.Reasons)
	}
	other := newWorld(t)
	other.site.Name = "elsewhere"
	for _, c := range []struct {
		code  wire.Code
		says  string
		spoil func(*exchange)
	}{
		{wire.CodeMalformed, "M1", func(x *exchange) { x.e.M1 = []byte("{}") }},
		{wire.CodeMalformed, "M2", func(x *exchange) { x.e.M2 = []byte("{}") }},
		{wire.CodeCookie, "at site", func(x *exchange) { x.judge = other.site }},
		{wire.CodeCookie, "", func(x *exchange) {
			x.judge = &verify.Site{Name: x.site.Name, ReleaseKey: x.site.ReleaseKey, CookieKey: wire.CookieKey{1}}
		}},
		{wire.CodeExpired, "", func(x *exchange) { x.now = x.now.Add(wire.CookieLife + time.Second) }},
		{wire.CodeCookie, "another request", func(x *exchange) { x.e.M1 = x.ask(t, nil).e.M1 }},
		{wire.CodeCookie, "not as it was sent", func(x *exchange) { x.challenge(func(c *wire.Challenge) { c.Nonce = make([]byte, 32) }) }},
		{wire.CodeCookie, "not as it was sent", func(x *exchange) { x.challenge(func(c *wire.Challenge) { c.Bank = "sha384" }) }},
		{wire.CodeCookie, "not as it was sent", func(x *exchange) { x.challenge(func(c *wire.Challenge) { c.PCRs = c.PCRs[:1] }) }},

		{wire.CodeQuoteFormat, "magic", func(x *exchange) { x.e.Quote[0] ^= 1 }},
		{wire.CodeQuoteFormat, "type", func(x *exchange) { x.e.Quote = x.e.Certify }},
		{wire.CodeQuoteFormat, "TPMS_ATTEST", func(x *exchange) { x.e.Quote = x.e.Quote[:40] }},
		{wire.CodeQuoteFormat, "TPMS_QUOTE_INFO", func(x *exchange) { x.e.Quote = append(x.e.Quote, 0) }},
		{wire.CodeNonce, "another exchange", func(x *exchange) { x.quote(func(t *[32]byte, _ *tpm2.TPMSQuoteInfo) { t[0] ^= 1 }) }},
		{wire.CodeSelection, "bitmap", func(x *exchange) {
			x.quote(func(_ *[32]byte, info *tpm2.TPMSQuoteInfo) { info.PCRSelect.PCRSelections[0].PCRSelect[0] ^= 1 })
		}},
		{wire.CodeSelection, "sha384", func(x *exchange) {
			x.quote(func(_ *[32]byte, info *tpm2.TPMSQuoteInfo) { info.PCRSelect.PCRSelections[0].Hash = tpm2.TPMAlgSHA384 })
		}},
		{wire.CodeSignature, "with SHA-256", func(x *exchange) { x.e.QuoteSignature[3] = 0x0c }},
		{wire.CodeSignature, "not ECDSA", func(x *exchange) { x.e.QuoteSignature[1] = 0x14 }},
		{wire.CodeSignature, "not ECDSA", func(x *exchange) { x.e.QuoteSignature = append(x.e.QuoteSignature, 0) }},
		{wire.CodeSignature, "not signed by the AK", func(x *exchange) { x.e.QuoteSignature = x.e.CertifySig }},

		{wire.CodePCRDigest, "values for", func(x *exchange) { x.e.PCRValues = x.e.PCRValues[1:] }},
		{wire.CodePCRDigest, "31 bytes", func(x *exchange) { x.e.PCRValues[0] = x.e.PCRValues[0][1:] }},
		{wire.CodePCRDigest, "not those that were quoted", func(x *exchange) { x.e.PCRValues[0][0] ^= 1 }},
		{wire.CodePCRDigest, "not those that were quoted", func(x *exchange) {
			x.quote(func(_ *[32]byte, info *tpm2.TPMSQuoteInfo) { info.PCRDigest.Buffer = make([]byte, 32) })
		}},

		{wire.CodeCertify, "type", func(x *exchange) { x.e.Certify = x.e.Quote }},
		{wire.CodeNonce, "another exchange", func(x *exchange) { x.certify(func(t *[32]byte, _ *tpm2.TPMSCertifyInfo) { t[0] ^= 1 }) }},
		{wire.CodeCertify, "TPMS_CERTIFY_INFO", func(x *exchange) { x.e.Certify = append(x.e.Certify, 0) }},
		{wire.CodeCertify, "another key", func(x *exchange) {
			x.certify(func(_ *[32]byte, info *tpm2.TPMSCertifyInfo) { info.Name.Buffer = make([]byte, 34) })
		}},
		{wire.CodeCertify, "not signed by the AK", func(x *exchange) { x.e.CertifySig = x.e.QuoteSignature }},

		{wire.CodeLog, "firmware log", func(x *exchange) { x.e.FirmwareLog = x.e.FirmwareLog[:100] }},
		{wire.CodeLog, "loader's log", func(x *exchange) { x.e.EventLog = x.e.EventLog[:len(x.e.EventLog)-1] }},
		{wire.CodeReplay, "edited or cut", func(x *exchange) { x.e.FirmwareLog = nil }},
		{wire.CodeReplay, "edited or cut", func(x *exchange) { x.log(x.device.Loader[:1]) }},
		{wire.CodeReplay, "edited or cut", func(x *exchange) {
			x.log(append(slices.Clone(x.device.Loader), x.entry(uint64(len(x.device.Loader)), event.PCRImage, event.CapRecord())))
		}},
		{wire.CodeForeignEvent, "not the loader's", func(x *exchange) {
			x.log(append(slices.Clone(x.device.Loader), x.entry(uint64(len(x.device.Loader)), 4, event.CapRecord())))
		}},
		{wire.CodeForeignEvent, "firmware or the boot stub", func(x *exchange) { x.judge.ImagePCR = 4 }},

		{wire.CodePolicy, "no appraisal policy", func(x *exchange) { x.appraise = nil }},
		{wire.CodeImage, "unknown", func(x *exchange) {
			x.appraise = func(*verify.Verified) []wire.Reason { return []wire.Reason{{Code: wire.CodeImage, Detail: "unknown"}} }
		}},
		{wire.CodeMalformed, "could not be parsed", func(x *exchange) {
			x.appraise = func(*verify.Verified) []wire.Reason { panic("a parser of somebody else's") }
		}},
	} {
		x := w.ask(t, nil)
		x.judge = &verify.Site{Name: w.site.Name, CookieKey: w.site.CookieKey, ReleaseKey: w.site.ReleaseKey}
		c.spoil(x)
		v := x.verdict()
		if v.Allowed() || len(v.Reasons) != 1 || v.Reasons[0].Code != c.code || !strings.Contains(v.Reasons[0].String(), c.says) {
			t.Errorf("allowed %t, reasons %v; want a denial with code %s and %q", v.Allowed(), v.Reasons, c.code, c.says)
		}
	}
}

// TestJudgeMarkers has devices that measured a marker of the loader's end.
func TestJudgeMarkers(t *testing.T) {
	w := newWorld(t)
	image := w.device.Loader[0].Record
	for _, c := range []struct {
		phase wire.Phase
		last  []event.Record
		says  string // empty: allowed
	}{
		{wire.PhaseBoot, nil, ""},
		{wire.PhaseBoot, []event.Record{event.CapRecord()}, "the loader has ended"},
		{wire.PhaseBoot, []event.Record{{Type: event.TypeShell}}, "nothing is granted"},
		{wire.PhaseBoot, []event.Record{{Type: event.TypeFailed}}, "nothing is granted"},
		{wire.PhaseRenew, []event.Record{event.CapRecord()}, ""},
		{wire.PhaseRenew, nil, "the loader has not ended"},
		{wire.PhaseRenew, []event.Record{event.CapRecord(), {Type: event.TypeFailed}}, "measured after the cap"},
		{wire.PhaseRenew, []event.Record{event.CapRecord(), event.CapRecord()}, "measured after the cap"},
	} {
		var err error
		if w.device, err = verifytest.New(w.site.ReleaseKey, w.device.Firmware, append([]event.Record{image}, c.last...), nil); err != nil {
			t.Fatal(err)
		}
		v := w.ask(t, func(d *wire.Device) { d.Phase = c.phase }).verdict()
		if c.says == "" && !v.Allowed() {
			t.Errorf("%s after %v: %v", c.phase, c.last, v.Reasons)
		}
		if c.says != "" && (v.Allowed() || v.Reasons[0].Code != wire.CodePhase || !strings.Contains(v.Reasons[0].String(), c.says)) {
			t.Errorf("%s after %v: allowed %t, %v; want %q", c.phase, c.last, v.Allowed(), v.Reasons, c.says)
		}
	}
}

// TestChallengeRefuses has requests of which nothing could be judged.
func TestChallengeRefuses(t *testing.T) {
	w := newWorld(t)
	other := newKey(t)
	strange, err := keys.AgentKey(&other.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := other.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	strange.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	for _, c := range []struct {
		code   wire.Code
		change func(*wire.Device)
	}{
		{wire.CodeMalformed, func(d *wire.Device) { d.Site = "elsewhere" }},
		{wire.CodeSelection, func(d *wire.Device) { d.Banks = []string{"sha1"} }},
		{wire.CodeEK, func(d *wire.Device) { d.EKPublic = d.AKPublic }},
		{wire.CodeEK, func(d *wire.Device) { d.EKPublic = bytes.Clone(d.EKPublic[:20]) }},
		{wire.CodeAK, func(d *wire.Device) { d.AKPublic = d.AgentPublic }},
		{wire.CodeAgentKey, func(d *wire.Device) { d.AgentPublic = d.AKPublic }},
		{wire.CodeAgentKey, func(d *wire.Device) { d.AgentPublic = tpm2.Marshal(*strange) }},
	} {
		m1, err := w.device.Request(w.site.Name)
		if err != nil {
			t.Fatal(err)
		}
		_, d, err := wire.ParseRequest(m1)
		if err != nil {
			t.Fatal(err)
		}
		c.change(d)
		if m1, err = wire.NewRequest(d, nil); err != nil {
			t.Fatal(err)
		}
		_, _, err = w.site.Challenge(time.Now(), m1, w.server)
		if r, ok := err.(*verify.Refusal); !ok || r.Code != c.code { //nolint:errorlint // the very type is promised
			t.Errorf("Challenge: %v, want a refusal with code %s", err, c.code)
		}
	}
}

// TestCertificateOfAnotherEK: a certificate that is somebody else's is worse than none.
func TestCertificateOfAnotherEK(t *testing.T) {
	w := newWorld(t)
	root, other := newKey(t), newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM maker"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	certificate := func(public any, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	cert, err := x509.ParseCertificate(certificate(&root.PublicKey, root))
	if err != nil {
		t.Fatal(err)
	}
	w.site.EKRoots = x509.NewCertPool()
	w.site.EKRoots.AddCert(cert)
	v := w.ask(t, func(d *wire.Device) { d.EKCertificate = certificate(&other.PublicKey, root) }).verdict()
	if v.Allowed() || v.Reasons[0].Code != wire.CodeEK {
		t.Errorf("allowed %t, %v; want code %s", v.Allowed(), v.Reasons, wire.CodeEK)
	}
	v = w.ask(t, nil).verdict()
	if !v.Allowed() || v.Verified.Endorsement == nil {
		t.Errorf("without a certificate: allowed %t, %v; endorsement %v", v.Allowed(), v.Reasons, v.Verified.Endorsement)
	}
}

// TestNothingIsReleasedForADenial holds the last door: what makes M4 asks the verdict itself.
func TestNothingIsReleasedForADenial(t *testing.T) {
	w := newWorld(t)
	good := w.ask(t, nil).verdict()
	grant := verify.Grant{Decision: "d", ReleaseKey: w.release, ServerKey: w.server,
		Secrets: &wire.Secrets{Version: wire.Version, SealKey: make([]byte, 32), AgentCertificate: []byte("c"), SiteCA: []byte("c")}}
	if _, _, err := verify.NewRelease(good, grant); err != nil {
		t.Fatal(err)
	}
	without := grant
	without.Secrets = nil
	denied := w.ask(t, nil).verdict()
	denied.Deny(wire.Reason{Code: wire.CodeDevice})
	for name, c := range map[string]struct {
		v *verify.Verdict
		g verify.Grant
	}{
		"no verdict":       {nil, grant},
		"the zero verdict": {&verify.Verdict{}, grant},
		"a denial":         {denied, grant},
		"no facts":         {&verify.Verdict{Claimed: good.Claimed}, grant},
		"no secrets":       {good, without},
	} {
		if m4, _, err := verify.NewRelease(c.v, c.g); !errors.Is(err, verify.ErrNotAllowed) || m4 != nil {
			t.Errorf("%s: %d bytes of M4, %v; want %v", name, len(m4), err, verify.ErrNotAllowed)
		}
	}
}
