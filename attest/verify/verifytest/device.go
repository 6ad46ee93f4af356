// Package verifytest makes evidence without a TPM, for tests and benchmarks of those that judge it. Its keys are software
// keys with the attributes of a TPM's, which no verifier can tell from the evidence alone: only the credential that
// answers it stays closed for them.
package verifytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Bank is the only bank that a [Device] has.
const Bank = tpm2.TPMAlgSHA256

// Device is a machine that has booted to the point of attestation.
type Device struct {
	Firmware []byte      // firmware's log
	Loader   []cel.Entry // what the loader has measured
	EK       *rsa.PrivateKey
	AK       *ecdsa.PrivateKey

	ek, ak, agent []byte // TPMT_PUBLIC
	log           []byte
	values        pcr.Values
}

// New makes a device with fresh keys for a site with this release key.
func New(release *ecdsa.PublicKey, firmware []byte, image, authority []event.Record) (*Device, error) {
	d := &Device{Firmware: firmware}
	if err := d.makeKeys(release); err != nil {
		return nil, fmt.Errorf("make a device for tests: %w", err)
	}
	if err := d.measure(image, authority); err != nil {
		return nil, fmt.Errorf("make a device for tests: %w", err)
	}
	return d, nil
}

func (d *Device) makeKeys(release *ecdsa.PublicKey) (err error) {
	if d.EK, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return err
	}
	ek := keys.EKs()[0].Template
	ek.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: d.EK.N.Bytes()})
	d.ek = tpm2.Marshal(ek)
	aks, err := keys.AKs(release)
	if err != nil {
		return err
	}
	if d.AK, d.ak, err = newECC(aks[0]); err != nil {
		return err
	}
	agent, err := keys.AgentKey(release)
	if err != nil {
		return err
	}
	_, d.agent, err = newECC(*agent)
	return err
}

func newECC(template tpm2.TPMTPublic) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil, err
	}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return key, tpm2.Marshal(template), nil
}

func (d *Device) measure(image, authority []event.Record) error {
	firmware, err := fwlog.Parse(d.Firmware)
	if err != nil {
		return err
	}
	start, err := firmware.Replay(Bank)
	if err != nil {
		return err
	}
	for i, r := range slices.Concat(image, authority) {
		index := event.PCRImage
		if i >= len(image) {
			index = event.PCRAuthority
		}
		e, err := cel.New(uint64(i), index, r, []tpm2.TPMAlgID{Bank})
		if err != nil {
			return err
		}
		d.Loader = append(d.Loader, e)
	}
	if d.log, err = cel.Marshal(d.Loader); err != nil {
		return err
	}
	d.values, err = cel.Replay(start, d.Loader, Bank)
	return err
}

// ID is the hash of the EK, by which a site knows the device.
func (d *Device) ID() string { return wire.KeyID(d.ek) }

// Request is M1 of a boot.
func (d *Device) Request(site string) ([]byte, error) {
	nonce := make([]byte, sha256.Size)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return wire.NewRequest(&wire.Device{
		Version: wire.Version, Site: site, Phase: wire.PhaseBoot, Nonce: nonce, EKPublic: d.ek, AKPublic: d.ak, AgentPublic: d.agent,
		Banks: []string{pcr.BankName(Bank)}, Loader: "test",
	}, nil)
}

// Evidence is M3: the answer to a challenge M2, which is not verified.
func (d *Device) Evidence(m1, m2 []byte) ([]byte, error) {
	var challenge wire.Challenge
	if err := wire.Payload(m2, &challenge); err != nil {
		return nil, err
	}
	e := &wire.Evidence{Version: wire.Version, M1: m1, M2: m2, FirmwareLog: d.Firmware, EventLog: d.log}
	quoted := keys.PCRs{Bank: Bank, Index: challenge.PCRs}
	for _, index := range challenge.PCRs {
		value := d.values[index]
		if value == nil {
			value = pcr.Zero(Bank)
		}
		quoted.Values = append(quoted.Values, value)
	}
	e.PCRValues = quoted.Values
	t := wire.Transcript(m1, m2)
	var err error
	e.Quote, e.QuoteSignature, err = d.Attest(t, tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
		PCRSelect: quoted.Selection(), PCRDigest: tpm2.TPM2BDigest{Buffer: quoted.Digest()},
	}))
	if err != nil {
		return nil, err
	}
	name, err := keys.NameOf(tpm2.TPMAlgSHA256, d.agent)
	if err != nil {
		return nil, err
	}
	e.Certify, e.CertifySig, err = d.Attest(t, tpm2.TPMSTAttestCertify, tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
		Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: name},
	}))
	if err != nil {
		return nil, err
	}
	return wire.Marshal(e)
}

// Attest makes a statement as a TPM would, and signs it with the AK.
func (d *Device) Attest(t [32]byte, kind tpm2.TPMST, what tpm2.TPMUAttest) (statement, signature []byte, err error) {
	statement = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: kind, ExtraData: tpm2.TPM2BData{Buffer: bytes.Clone(t[:])}, Attested: what,
		QualifiedSigner: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, make([]byte, 32)...)},
	})
	digest := sha256.Sum256(statement)
	der, err := d.AK.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, nil, err
	}
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, nil, err
	}
	return statement, tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: s.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.S.FillBytes(make([]byte, 32))},
		}),
	}), nil
}
