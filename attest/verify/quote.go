package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/pcr"
)

// parseAttest reads what a restricted key attests to, and checks what every such statement must have: made inside a
// TPM, of the right type, and for this transcript.
func parseAttest(raw []byte, want tpm2.TPMST, code wire.Code, t [32]byte) (*tpm2.TPMSAttest, error) {
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](raw)
	if err != nil {
		return nil, refuse(code, "not a TPMS_ATTEST: %v", err)
	}
	if a.Magic != tpm2.TPMGeneratedValue {
		return nil, refuse(code, "magic is %#x: not made by a TPM", uint32(a.Magic))
	}
	if a.Type != want {
		return nil, &Refusal{wire.Reason{
			Code: code, Expected: fmt.Sprintf("type %#04x", uint16(want)), Found: fmt.Sprintf("type %#04x", uint16(a.Type)),
		}}
	}
	if !bytes.Equal(a.ExtraData.Buffer, t[:]) {
		return nil, &Refusal{wire.Reason{
			Code: wire.CodeNonce, Expected: hex.EncodeToString(t[:]), Found: hex.EncodeToString(a.ExtraData.Buffer),
			Detail: "made for another exchange",
		}}
	}
	if !bytes.Equal(tpm2.Marshal(*a), raw) {
		return nil, refuse(code, "not encoded as a TPM does")
	}
	return a, nil
}

// parseQuote also checks that exactly the PCRs of the challenge are covered.
func parseQuote(raw []byte, t [32]byte, want keys.PCRs) (*tpm2.TPMSAttest, *tpm2.TPMSQuoteInfo, error) {
	a, err := parseAttest(raw, tpm2.TPMSTAttestQuote, wire.CodeQuoteFormat, t)
	if err != nil {
		return nil, nil, err
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return nil, nil, refuse(wire.CodeQuoteFormat, "%v", err)
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(want.Selection())) {
		return nil, nil, &Refusal{wire.Reason{
			Code: wire.CodeSelection, Expected: describeSelection(want.Selection()), Found: describeSelection(info.PCRSelect),
		}}
	}
	return a, info, nil
}

func describeSelection(l tpm2.TPMLPCRSelection) string {
	var b bytes.Buffer
	for i, s := range l.PCRSelections {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s bitmap %x", pcr.BankName(s.Hash), s.PCRSelect)
	}
	return b.String()
}

// checkSignature verifies a TPMT_SIGNATURE over a statement, with the one scheme that the key's template allows.
func checkSignature(code wire.Code, key crypto.PublicKey, statement, signature []byte) error {
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil {
		return refuse(code, "not a TPMT_SIGNATURE: %v", err)
	}
	digest := sha256.Sum256(statement)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ecc, err := sig.Signature.ECDSA()
		if sig.SigAlg != tpm2.TPMAlgECDSA || err != nil || ecc.Hash != tpm2.TPMAlgSHA256 {
			return refuse(code, "signature is not ECDSA with SHA-256")
		}
		r, s := new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)
		if ecdsa.Verify(k, digest[:], r, s) {
			return nil
		}
	case *rsa.PublicKey:
		ssa, err := sig.Signature.RSASSA()
		if sig.SigAlg != tpm2.TPMAlgRSASSA || err != nil || ssa.Hash != tpm2.TPMAlgSHA256 {
			return refuse(code, "signature is not RSASSA with SHA-256")
		}
		if rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], ssa.Sig.Buffer) == nil {
			return nil
		}
	}
	return refuse(code, "not signed by the AK of this request")
}

// checkValues compares the claimed PCR values with the digest that was signed. From here on they are facts.
func checkValues(info *tpm2.TPMSQuoteInfo, values *keys.PCRs, claimed [][]byte) error {
	if len(claimed) != len(values.Index) {
		return refuse(wire.CodePCRDigest, "%d values for %d PCRs", len(claimed), len(values.Index))
	}
	for i, v := range claimed {
		if len(v) != len(pcr.Zero(values.Bank)) {
			return refuse(wire.CodePCRDigest, "PCR %d has %d bytes", values.Index[i], len(v))
		}
	}
	values.Values = claimed
	if !bytes.Equal(info.PCRDigest.Buffer, values.Digest()) {
		return &Refusal{wire.Reason{
			Code: wire.CodePCRDigest, Expected: hex.EncodeToString(info.PCRDigest.Buffer), Found: hex.EncodeToString(values.Digest()),
			Detail: "the PCR values are not those that were quoted",
		}}
	}
	return nil
}

// checkCertify verifies that the AK vouches for the agent key, in this exchange.
func checkCertify(e *wire.Evidence, k *deviceKeys, t [32]byte) error {
	a, err := parseAttest(e.Certify, tpm2.TPMSTAttestCertify, wire.CodeCertify, t)
	if err != nil {
		return err
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return refuse(wire.CodeCertify, "%v", err)
	}
	if !bytes.Equal(info.Name.Buffer, k.agentName) {
		return &Refusal{wire.Reason{
			Code: wire.CodeCertify, Expected: hex.EncodeToString(k.agentName), Found: hex.EncodeToString(info.Name.Buffer),
			Detail: "the AK certified another key",
		}}
	}
	return checkSignature(wire.CodeCertify, k.akKey, e.Certify, e.CertifySig)
}
