package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/verify/verifytest"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
)

// softEvidence is what a device without a TPM answers to this site.
func softEvidence(t testing.TB, s *Site) (*wire.Evidence, [32]byte) {
	t.Helper()
	firmware, err := os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin")
	if err != nil {
		t.Fatal(err)
	}
	d, err := verifytest.New(s.ReleaseKey, firmware, []event.Record{{Type: event.TypeBootDescriptor}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m1, err := d.Request(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	m2, _, err := s.Challenge(time.Now(), m1, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	m3, err := d.Evidence(m1, m2)
	if err != nil {
		t.Fatal(err)
	}
	var e wire.Evidence
	if err := wire.Unmarshal(m3, &e); err != nil {
		t.Fatal(err)
	}
	return &e, wire.Transcript(m1, m2)
}

// otherQuote reads a quote by go-tpm's reflection, as this package once did.
func otherQuote(raw []byte, t [32]byte, want keys.PCRs) (digest []byte, ok bool) {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
	if err != nil || !bytes.Equal(tpm2.Marshal(*a), raw) ||
		a.Magic != tpm2.TPMGeneratedValue || a.Type != tpm2.TPMSTAttestQuote || !bytes.Equal(a.ExtraData.Buffer, t[:]) {
		return nil, false
	}
	info, err := a.Attested.Quote()
	if err != nil || !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(want.Selection())) {
		return nil, false
	}
	return info.PCRDigest.Buffer, true
}

// FuzzQuote compares the reader of quotes with go-tpm's.
func FuzzQuote(f *testing.F) {
	s := &Site{Name: "s", ReleaseKey: &newKey(f).PublicKey}
	e, _ := softEvidence(f, s)
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](e.Quote)
	if err != nil {
		f.Fatal(err)
	}
	// The same for every run, so that what is found can be kept.
	t := [32]byte{1, 2, 3}
	a.ExtraData.Buffer = t[:]
	want := keys.PCRs{Bank: tpm2.TPMAlgSHA256, Index: s.selection(wire.PhaseBoot)}
	f.Add(tpm2.Marshal(*a))
	a.ClockInfo.Safe = true
	a.FirmwareVersion = 1 << 40
	f.Add(tpm2.Marshal(*a))
	f.Add(e.Quote)
	f.Add(e.Certify)
	f.Fuzz(func(tt *testing.T, raw []byte) {
		digest, ok := otherQuote(raw, t, want)
		q, err := parseQuote(raw, t, want)
		if (err == nil) != ok {
			tt.Fatalf("parseQuote() = %v, go-tpm accepts: %v", err, ok)
		}
		if ok && !bytes.Equal(q.digest, digest) {
			tt.Errorf("digest %x, go-tpm reads %x", q.digest, digest)
		}
	})
}

// FuzzSignature compares the reader of signatures with go-tpm's.
func FuzzSignature(f *testing.F) {
	s := &Site{Name: "s", ReleaseKey: &newKey(f).PublicKey}
	e, _ := softEvidence(f, s)
	_, d, err := wire.ParseRequest(e.M1)
	if err != nil {
		f.Fatal(err)
	}
	k, err := s.deviceKeys(d)
	if err != nil {
		f.Fatal(err)
	}
	key, digest := k.ak.Key.(*ecdsa.PublicKey), sha256.Sum256(e.Quote)
	f.Add(e.QuoteSignature)
	f.Add(e.CertifySig)
	f.Add([]byte{0, 0x18, 0, 0x0b, 0, 0, 0, 0})
	f.Add([]byte{0, 0x14, 0, 0x0b, 0, 1, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		accepted := checkSignature(wire.CodeSignature, key, e.Quote, raw) == nil
		sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](raw)
		if err != nil {
			if accepted {
				t.Error("accepted what go-tpm cannot read")
			}
			return
		}
		ecc, err := sig.Signature.ECDSA()
		good := err == nil && sig.SigAlg == tpm2.TPMAlgECDSA && ecc.Hash == tpm2.TPMAlgSHA256 &&
			ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer))
		if accepted && !good {
			t.Error("accepted what go-tpm's reading does not verify")
		}
		if good && !accepted && bytes.Equal(tpm2.Marshal(*sig), raw) {
			t.Error("refused a good signature")
		}
	})
}
