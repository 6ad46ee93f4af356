package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
)

// tpmtSignature is a TPMT_SIGNATURE (TPM 2.0 Part 2, 11.3.4) with its parts as sized buffers.
func tpmtSignature(scheme, hash tpm2.TPMAlgID, parts ...[]byte) []byte {
	b := []byte{byte(scheme >> 8), byte(scheme), byte(hash >> 8), byte(hash)}
	for _, p := range parts {
		b = append(b, byte(len(p)>>8), byte(len(p)))
		b = append(b, p...)
	}
	return b
}

// TestCheckSignature has good signatures whose framing says something else.
func TestCheckSignature(t *testing.T) {
	statement := []byte("TPMS_ATTEST")
	digest := sha256.Sum256(statement)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	ecKey := newKey(t)
	r, s, err := ecdsa.Sign(rand.Reader, ecKey, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	const rsassa, ecdsaScheme, sha = tpm2.TPMAlgRSASSA, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256
	goodRSA := tpmtSignature(rsassa, sha, pkcs)
	goodEC := tpmtSignature(ecdsaScheme, sha, r.Bytes(), s.Bytes())
	for _, tt := range []struct {
		name      string
		key       crypto.PublicKey
		signature []byte
		good      bool
	}{
		{"RSA", rsaKey.Public(), goodRSA, true},
		{"RSA, another scheme", rsaKey.Public(), tpmtSignature(tpm2.TPMAlgRSAPSS, sha, pkcs), false},
		{"RSA, another hash", rsaKey.Public(), tpmtSignature(rsassa, tpm2.TPMAlgSHA1, pkcs), false},
		{"RSA, one byte more", rsaKey.Public(), append(slices.Clone(goodRSA), 0), false},
		{"RSA, cut", rsaKey.Public(), goodRSA[:len(goodRSA)-1], false},
		{"RSA, nothing", rsaKey.Public(), tpmtSignature(rsassa, sha), false},
		{"ECDSA", ecKey.Public(), goodEC, true},
		{"ECDSA, another scheme", ecKey.Public(), tpmtSignature(tpm2.TPMAlgECDAA, sha, r.Bytes(), s.Bytes()), false},
		{"ECDSA, one byte more", ecKey.Public(), append(slices.Clone(goodEC), 0), false},
		{"ECDSA, cut", ecKey.Public(), goodEC[:len(goodEC)-1], false},
		{"the other key", ecKey.Public(), goodRSA, false},
		{"a key of no kind", nil, goodEC, false},
		{"nothing", ecKey.Public(), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := checkSignature(wire.CodeAK, tt.key, statement, tt.signature); (err == nil) != tt.good {
				t.Errorf("error %v, want good %v", err, tt.good)
			}
		})
	}
	if err := checkSignature(wire.CodeAK, rsaKey.Public(), []byte("another"), goodRSA); err == nil {
		t.Error("another statement passed")
	}
}

// TestAgentSelectionMustBeQuoted pins that no agent key is approved for a PCR whose value no one vouched for.
func TestAgentSelectionMustBeQuoted(t *testing.T) {
	v := &Verified{
		PCRs:           keys.PCRs{Bank: tpm2.TPMAlgSHA256, Index: []int{0, 4}, Values: [][]byte{make([]byte, 32), make([]byte, 32)}},
		ImagePCR:       12,
		Device:         &wire.Device{Phase: wire.PhaseRenew},
		agentSelection: []int{0, 4},
	}
	if after, err := v.afterCap(); err != nil || len(after.Values) != 2 {
		t.Fatalf("what was quoted: %v, %v", after, err)
	}
	v.agentSelection = []int{0, 7}
	if after, err := v.afterCap(); err == nil {
		t.Errorf("PCR 7 was not quoted, and is %x", after.Values)
	}
}
