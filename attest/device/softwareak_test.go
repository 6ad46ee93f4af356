package device_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestSoftwareAK: an attacker without the device, who knows its EK's public key and a good boot's log, makes AK, agent
// key, quote and certification in software. Nothing short of the TPM can tell, so what he gets must be worth nothing.
func TestSoftwareAK(t *testing.T) {
	victim := start(t, tpmtest.Options{})
	victim.measureImage(t)
	s := newSite(t, "shop-1")
	ctx := context.Background()
	if _, err := s.client(victim).Boot(ctx, victim.logs()); err != nil {
		t.Fatal(err)
	}
	seen := s.verdict.Verified
	ak, akPublic := softwareKey(t, mustAK(t, s))
	_, agentPublic := softwareKey(t, mustAgent(t, s))
	d := *seen.Device
	d.AKPublic, d.AgentPublic = tpm2.Marshal(*akPublic), tpm2.Marshal(*agentPublic)
	m1, err := wire.NewRequest(&d, nil)
	if err != nil {
		t.Fatal(err)
	}
	m2, _, err := s.Challenge(time.Now(), m1, s.server)
	if err != nil {
		t.Fatal(err)
	}
	x := wire.Transcript(m1, m2)
	e := &wire.Evidence{Version: wire.Version, M1: m1, M2: m2, PCRValues: seen.PCRs.Values, FirmwareLog: victim.firmware, EventLog: victim.rec.Log()}
	e.Quote, e.QuoteSignature = forge(t, ak, x, tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote,
		&tpm2.TPMSQuoteInfo{PCRSelect: seen.PCRs.Selection(), PCRDigest: tpm2.TPM2BDigest{Buffer: seen.PCRs.Digest()}}))
	name, err := keys.Name(agentPublic)
	if err != nil {
		t.Fatal(err)
	}
	e.Certify, e.CertifySig = forge(t, ak, x, tpm2.TPMSTAttestCertify, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify,
		&tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}}))
	m3, err := wire.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	m4, status := s.evidence(m3)
	if status != http.StatusOK {
		t.Fatalf("the forgery is not good enough: %v", s.verdict.Reasons)
	}
	var r wire.Release
	if err := wire.Payload(m4, &r); err != nil {
		t.Fatal(err)
	}
	if r.AgentCertificate != nil {
		t.Error("the agent certificate is in clear")
	}
	// The victim's own TPM, under the thief's full control, does not open it either: the AK is not in it.
	withAK(t, victim, s, func(real tpm2.AuthHandle) {
		credential := keys.Credential{AKName: real.Name.Buffer, EKName: seen.EK.Name, Blob: r.Credential, Secret: r.EncryptedSecret}
		policy := keys.ReleasePolicy(seen.PCRs, &credential, seen.Clock)
		sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](r.Approval)
		if err != nil {
			t.Fatal(err)
		}
		public, err := keys.ReleaseKey(&s.release.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*public), Hierarchy: tpm2.TPMRHOwner}.Execute(victim)
		if err != nil {
			t.Fatal(err)
		}
		defer tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(victim) //nolint:errcheck // a test's TPM
		_, err = tpm2.VerifySignature{KeyHandle: loaded.ObjectHandle, Digest: tpm2.TPM2BDigest{Buffer: keys.ApprovalDigest(policy, keys.RefRelease)}, Signature: *sig}.Execute(victim)
		if !errors.Is(err, tpm2.TPMRCSignature) {
			t.Errorf("the approval is good for the real AK: %v", err)
		}
	})
}

func mustAK(t testing.TB, s *site) tpm2.TPMTPublic {
	t.Helper()
	templates, err := keys.AKs(&s.release.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return templates[0]
}

func mustAgent(t testing.TB, s *site) tpm2.TPMTPublic {
	t.Helper()
	template, err := keys.AgentKey(&s.release.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return *template
}

func softwareKey(t testing.TB, public tpm2.TPMTPublic) (*ecdsa.PrivateKey, *tpm2.TPMTPublic) {
	t.Helper()
	k := newKey(t)
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	return k, &public
}

// forge makes a statement that looks like a TPM's.
func forge(t testing.TB, k *ecdsa.PrivateKey, x [32]byte, typ tpm2.TPMST, attested tpm2.TPMUAttest) (statement, signature []byte) {
	t.Helper()
	statement = tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: typ, ExtraData: tpm2.TPM2BData{Buffer: x[:]}, Attested: attested})
	digest := sha256.Sum256(statement)
	r, ss, err := ecdsa.Sign(rand.Reader, k, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return statement, tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: ss.Bytes()}})})
}
