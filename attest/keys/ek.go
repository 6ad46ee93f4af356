package keys

import (
	"bytes"
	"encoding/hex"

	"github.com/google/go-tpm/tpm2"
)

// EK is one of the endorsement keys that the TCG EK Credential Profile defines.
type EK struct {
	Name      string          // for people: "RSA-2048"
	Template  tpm2.TPMTPublic // for TPM2_CreatePrimary in the endorsement hierarchy
	CertIndex tpm2.TPMHandle  // NV index of its certificate
	Handle    tpm2.TPMHandle  // where a persistent one is found, by convention
}

// EKs returns the endorsement keys that are supported, preferred first. RSA comes first because it is the one that
// every TPM has a certificate for.
func EKs() []EK {
	return []EK{
		{"RSA-2048", tpm2.RSAEKTemplate, 0x01c00002, 0x81010001},
		{"P-256", tpm2.ECCEKTemplate, 0x01c0000a, 0x81010002},
		{"P-384", eccHigh(tpm2.TPMAlgSHA384, tpm2.TPMECCNistP384, 256, policyBSHA384), 0x01c00016, 0x81010016},
		{"RSA-2048 (high range)", rsaHigh(), 0x01c00012, 0x81010012},
		{"P-256 (high range)", eccHigh(tpm2.TPMAlgSHA256, tpm2.TPMECCNistP256, 128, policyBSHA256), 0x01c00014, 0x81010014},
	}
}

// PolicyB of the EK Credential Profile 2.3, B.6.2: PolicyOR(PolicySecret(endorsement), PolicyAuthorizeNV).
const (
	policyBSHA256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyBSHA384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)

func highAttributes() tpm2.TPMAObject {
	return tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
	}
}

func eccHigh(nameAlg tpm2.TPMAlgID, curve tpm2.TPMECCCurve, aesBits tpm2.TPMKeyBits, policy string) tpm2.TPMTPublic {
	digest, _ := hex.DecodeString(policy) // a constant; a test pins both
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          nameAlg,
		ObjectAttributes: highAttributes(),
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: digest},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aesCFB(aesBits), CurveID: curve}),
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func rsaHigh() tpm2.TPMTPublic {
	digest, _ := hex.DecodeString(policyBSHA256)
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: highAttributes(),
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: digest},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aesCFB(128), KeyBits: 2048}),
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
	}
}

func aesCFB(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// Matches tells whether a public area was made from the template: everything but the key itself is the same.
func Matches(pub, template *tpm2.TPMTPublic) bool {
	if pub.Type != template.Type || pub.NameAlg != template.NameAlg || pub.ObjectAttributes != template.ObjectAttributes {
		return false // most candidates, at no cost
	}
	p, t := *pub, *template
	return bytes.Equal(frame(&p), frame(&t))
}

// frame is the wire form of a public area without its unique field.
func frame(p *tpm2.TPMTPublic) []byte {
	empty := tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if p.Type == tpm2.TPMAlgRSA {
		empty = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	p.Unique = empty
	return tpm2.Marshal(*p)
}
