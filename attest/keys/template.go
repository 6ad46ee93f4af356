package keys

import (
	"crypto/ecdsa"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
)

// Policy references: what an approval of the release key is for.
const (
	RefRelease  = "release/v1"
	RefAgentKey = "agent-key/v1"
)

// ReleaseKey is the public area under which a TPM loads a site's release key to check approvals.
func ReleaseKey(key *ecdsa.PublicKey) (*tpm2.TPMTPublic, error) {
	point, err := key.Bytes()
	if err != nil || len(point) != 65 {
		return nil, fmt.Errorf("release key: not a P-256 key: %v", err) //nolint:errorlint // err may be nil
	}
	return &tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme:  ecdsaSHA256(),
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	}, nil
}

// ReleaseKeyName is the Name that approvals, templates and PCR 13 know the release key by.
func ReleaseKeyName(key *ecdsa.PublicKey) ([]byte, error) {
	pub, err := ReleaseKey(key)
	if err != nil {
		return nil, err
	}
	return Name(pub)
}

// ReleaseKeyRecord is what a loader measures about the release key into PCR 13: its Name, which fixes what the AK and
// the agent key will obey.
func ReleaseKeyRecord(key *ecdsa.PublicKey) (event.Record, error) {
	name, err := ReleaseKeyName(key)
	if err != nil {
		return event.Record{}, err
	}
	return event.Record{Type: event.TypeReleaseKey, Detail: map[string]string{"name": hex.EncodeToString(name)}}, nil
}

// AKs returns the templates of the attestation key of a site, preferred first. Any may be used; a TPM without ECC
// takes the second.
func AKs(release *ecdsa.PublicKey) ([]tpm2.TPMTPublic, error) {
	policy, err := authorize(release, RefRelease, tpm2.TPMCCActivateCredential)
	if err != nil {
		return nil, err
	}
	attributes := tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true,
		UserWithAuth: true, AdminWithPolicy: true, Restricted: true, SignEncrypt: true,
	}
	return []tpm2.TPMTPublic{p256(attributes, policy), {
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSASSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
	}}, nil
}

// AgentKey returns the template of the agent key of a site. Its auth value opens nothing: both userWithAuth and
// adminWithPolicy are clear, so that only the policy signs, and the AK may still certify it.
func AgentKey(release *ecdsa.PublicKey) (*tpm2.TPMTPublic, error) {
	policy, err := authorize(release, RefAgentKey, 0)
	if err != nil {
		return nil, err
	}
	t := p256(tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, NoDA: true, SignEncrypt: true,
	}, policy)
	return &t, nil
}

func p256(attributes tpm2.TPMAObject, policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme:  ecdsaSHA256(),
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func ecdsaSHA256() tpm2.TPMTECCScheme {
	return tpm2.TPMTECCScheme{
		Scheme:  tpm2.TPMAlgECDSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
	}
}
