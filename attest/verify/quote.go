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
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/pcr"
)

// statement is a TPMS_ATTEST.
type statement struct {
	clock    tpm2.TPMSClockInfo
	firmware uint64
	attested cryptobyte.String // by type: TPMS_QUOTE_INFO or TPMS_CERTIFY_INFO
}

// parseAttest reads what a restricted key attests to, and checks what every such statement must have: made inside a
// TPM, of the right type, and for this transcript.
func parseAttest(raw []byte, want tpm2.TPMST, code wire.Code, t [32]byte) (*statement, error) {
	s := cryptobyte.String(raw)
	var magic, resets, restarts uint32
	var kind uint16
	var signer, extra cryptobyte.String
	var a statement
	var safe uint8
	if !s.ReadUint32(&magic) || magic != uint32(tpm2.TPMGeneratedValue) {
		return nil, refuse(code, "magic is %#x: not made by a TPM", magic)
	}
	if !s.ReadUint16(&kind) || kind != uint16(want) {
		return nil, &Refusal{wire.Reason{
			Code: code, Expected: fmt.Sprintf("type %#04x", uint16(want)), Found: fmt.Sprintf("type %#04x", kind),
		}}
	}
	if !s.ReadUint16LengthPrefixed(&signer) || !s.ReadUint16LengthPrefixed(&extra) || !s.ReadUint64(&a.clock.Clock) ||
		!s.ReadUint32(&resets) || !s.ReadUint32(&restarts) || !s.ReadUint8(&safe) || safe > 1 || !s.ReadUint64(&a.firmware) {
		return nil, refuse(code, "not a TPMS_ATTEST as a TPM encodes it")
	}
	if !bytes.Equal(extra, t[:]) {
		return nil, &Refusal{wire.Reason{
			Code: wire.CodeNonce, Expected: hex.EncodeToString(t[:]), Found: hex.EncodeToString(extra),
			Detail: "made for another exchange",
		}}
	}
	a.clock.ResetCount, a.clock.RestartCount, a.clock.Safe, a.attested = resets, restarts, safe == 1, s
	return &a, nil
}

// quote is what a quote says.
type quote struct {
	statement
	digest []byte // over the values of the PCRs
}

// parseQuote also checks that exactly the PCRs of the challenge are covered.
func parseQuote(raw []byte, t [32]byte, want keys.PCRs) (*quote, error) {
	a, err := parseAttest(raw, tpm2.TPMSTAttestQuote, wire.CodeQuoteFormat, t)
	if err != nil {
		return nil, err
	}
	selection := want.SelectionBytes()
	if !bytes.HasPrefix(a.attested, selection) {
		r := wire.Reason{Code: wire.CodeSelection, Expected: describeSelection(want.Selection())}
		if found, err := tpm2.Unmarshal[tpm2.TPMSQuoteInfo](a.attested); err == nil {
			r.Found = describeSelection(found.PCRSelect)
		}
		return nil, &Refusal{r}
	}
	rest := a.attested[len(selection):]
	var digest cryptobyte.String
	if !rest.ReadUint16LengthPrefixed(&digest) || !rest.Empty() {
		return nil, refuse(wire.CodeQuoteFormat, "not a TPMS_QUOTE_INFO as a TPM encodes it")
	}
	return &quote{*a, digest}, nil
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
	raw := cryptobyte.String(signature)
	var scheme, hash uint16
	if !raw.ReadUint16(&scheme) || !raw.ReadUint16(&hash) || hash != uint16(tpm2.TPMAlgSHA256) {
		return refuse(code, "not a TPMT_SIGNATURE with SHA-256")
	}
	digest := sha256.Sum256(statement)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		var r, s cryptobyte.String
		if scheme != uint16(tpm2.TPMAlgECDSA) || !raw.ReadUint16LengthPrefixed(&r) || !raw.ReadUint16LengthPrefixed(&s) || !raw.Empty() {
			return refuse(code, "signature is not ECDSA with SHA-256")
		}
		if ecdsa.Verify(k, digest[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
			return nil
		}
	case *rsa.PublicKey:
		var sig cryptobyte.String
		if scheme != uint16(tpm2.TPMAlgRSASSA) || !raw.ReadUint16LengthPrefixed(&sig) || !raw.Empty() {
			return refuse(code, "signature is not RSASSA with SHA-256")
		}
		if rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil {
			return nil
		}
	}
	return refuse(code, "not signed by the AK of this request")
}

// checkValues compares the claimed PCR values with the digest that was signed. From here on they are facts.
func checkValues(quoted []byte, values *keys.PCRs, claimed [][]byte) error {
	if len(claimed) != len(values.Index) {
		return refuse(wire.CodePCRDigest, "%d values for %d PCRs", len(claimed), len(values.Index))
	}
	for i, v := range claimed {
		if len(v) != len(pcr.Zero(values.Bank)) {
			return refuse(wire.CodePCRDigest, "PCR %d has %d bytes", values.Index[i], len(v))
		}
	}
	values.Values = claimed
	if !bytes.Equal(quoted, values.Digest()) {
		return &Refusal{wire.Reason{
			Code: wire.CodePCRDigest, Expected: hex.EncodeToString(quoted), Found: hex.EncodeToString(values.Digest()),
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
	var name, qualified cryptobyte.String
	rest := a.attested
	if !rest.ReadUint16LengthPrefixed(&name) || !rest.ReadUint16LengthPrefixed(&qualified) || !rest.Empty() {
		return refuse(wire.CodeCertify, "not a TPMS_CERTIFY_INFO as a TPM encodes it")
	}
	if !bytes.Equal(name, k.agent.Name) {
		return &Refusal{wire.Reason{
			Code: wire.CodeCertify, Expected: hex.EncodeToString(k.agent.Name), Found: hex.EncodeToString(name),
			Detail: "the AK certified another key",
		}}
	}
	return checkSignature(wire.CodeCertify, k.ak.Key, e.Certify, e.CertifySig)
}
