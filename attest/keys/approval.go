package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// authorize is the policy PolicyAuthorize(release key, ref), then PolicyCommandCode(code) unless code is 0.
func authorize(release *ecdsa.PublicKey, ref string, code tpm2.TPMCC) ([]byte, error) {
	name, err := ReleaseKeyName(release)
	if err != nil {
		return nil, err
	}
	commands := []tpm2.PolicyCommand{tpm2.PolicyAuthorize{
		PolicyRef: tpm2.TPM2BDigest{Buffer: []byte(ref)},
		KeySign:   tpm2.TPM2BName{Buffer: name},
	}}
	if code != 0 {
		commands = append(commands, tpm2.PolicyCommandCode{Code: code})
	}
	return digest(commands...)
}

// digest is the policy digest of a sequence of commands, as the TPM would compute it.
func digest(commands ...tpm2.PolicyCommand) ([]byte, error) {
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("compute policy: %w", err)
	}
	for _, c := range commands {
		if err := c.Update(calc); err != nil {
			return nil, fmt.Errorf("compute policy: %w", err)
		}
	}
	return calc.Hash().Digest, nil
}

// PCRs are values of PCRs of one bank.
type PCRs struct {
	Bank   tpm2.TPMAlgID
	Index  []int    // ascending
	Values [][]byte // one for each of Index
}

// Selection is the selection of these PCRs, as a TPM of a PC encodes it.
func (p PCRs) Selection() tpm2.TPMLPCRSelection {
	index := make([]uint, len(p.Index))
	for i, n := range p.Index {
		index[i] = uint(n)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      p.Bank,
		PCRSelect: tpm2.PCClientCompatible.PCRs(index...),
	}}}
}

// Digest is SHA-256 of the values, which is what a quote and a SHA-256 policy session hold whatever the bank.
func (p PCRs) Digest() []byte {
	h := sha256.New()
	for _, v := range p.Values {
		h.Write(v)
	}
	return h.Sum(nil)
}

// SelectionBytes is the wire form of Selection.
func (p PCRs) SelectionBytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Bank))
	bitmap := [3]byte{}
	for _, n := range p.Index {
		bitmap[n/8] |= 1 << (n % 8)
	}
	return append(append(b, byte(len(bitmap))), bitmap[:]...)
}

// Credential is a secret that only one TPM can open, for one AK.
type Credential struct {
	AKName, EKName []byte
	Blob           []byte // contents of TPM2B_ID_OBJECT
	Secret         []byte // contents of TPM2B_ENCRYPTED_SECRET
}

// Command is the TPM2_ActivateCredential that opens the credential, to be completed with handles.
func (c *Credential) Command() tpm2.ActivateCredential {
	return tpm2.ActivateCredential{
		ActivateHandle: tpm2.NamedHandle{Name: tpm2.TPM2BName{Buffer: c.AKName}},
		KeyHandle:      tpm2.NamedHandle{Name: tpm2.TPM2BName{Buffer: c.EKName}},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
	}
}

// CPHash binds an approval to this very credential: SHA-256(command code || Names of both handles || parameters), TPM 2.0
// Part 1, 16.7.
func (c *Credential) CPHash() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCActivateCredential))
	b = append(append(b, c.AKName...), c.EKName...)
	sum := sha256.Sum256(appendSized(appendSized(b, c.Blob), c.Secret))
	return sum[:]
}

// appendSized adds a TPM2B. What this protocol puts into one is a message's, and so under 64 KiB.
func appendSized(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(content))), content...)
}

// MakeCredential encrypts secret (at most 32 bytes) so that only the TPM with this EK can open it, and only while it
// holds the key with this Name.
func MakeCredential(ek *Public, akName, secret []byte) (*Credential, error) {
	key, err := tpm2.ImportEncapsulationKey(&ek.Area)
	if err != nil {
		return nil, fmt.Errorf("make credential: %w", err)
	}
	blob, enc, err := tpm2.CreateCredential(rand.Reader, key, akName, secret)
	if err != nil {
		return nil, fmt.Errorf("make credential: %w", err)
	}
	return &Credential{AKName: akName, EKName: ek.Name, Blob: blob, Secret: enc}, nil
}

// ReleasePolicy is what "release/v1" approves: these PCR values, this credential, and the TPM's counts of its starts.
func ReleasePolicy(p PCRs, c *Credential, quoted tpm2.TPMSClockInfo) []byte {
	operand, offset, operation := SinceStart(quoted)
	h := sha256.New() // TPM 2.0 Part 3, 23.10
	h.Write(operand)
	h.Write(binary.BigEndian.AppendUint16(nil, offset))
	h.Write(binary.BigEndian.AppendUint16(nil, uint16(operation)))
	policy := extend(AgentPolicy(p), tpm2.TPMCCPolicyCpHash, c.CPHash())
	return extend(policy, tpm2.TPMCCPolicyCounterTimer, h.Sum(nil))
}

// SinceStart are the parameters of the TPM2_PolicyCounterTimer that holds until the TPM is started again, in whatever way.
// The count of resets alone would not do: a power cycle after TPM2_Shutdown(STATE), which any OS can send, zeroes the
// PCRs too, and raises only the count of restarts. The two lie side by side and are compared as one.
func SinceStart(quoted tpm2.TPMSClockInfo) (operand []byte, offset uint16, operation tpm2.TPMEO) {
	const resetCount = 8 + 8 // in TPMS_TIME_INFO, behind time and clock; restartCount follows
	operand = binary.BigEndian.AppendUint32(nil, quoted.ResetCount)
	return binary.BigEndian.AppendUint32(operand, quoted.RestartCount), resetCount, tpm2.TPMEOEq
}

// AgentPolicy is what "agent-key/v1" approves: these PCR values.
func AgentPolicy(p PCRs) []byte {
	return extend(make([]byte, sha256.Size), tpm2.TPMCCPolicyPCR, append(p.SelectionBytes(), p.Digest()...))
}

// extend is one step of a SHA-256 policy session: TPM 2.0 Part 3, chapter 23.
func extend(policy []byte, code tpm2.TPMCC, arguments []byte) []byte {
	h := sha256.New()
	h.Write(policy)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(code)))
	h.Write(arguments)
	return h.Sum(nil)
}

// ApprovalDigest is what the release key signs: SHA-256(approved policy || reference).
func ApprovalDigest(policy []byte, ref string) []byte {
	sum := sha256.Sum256(append(append([]byte{}, policy...), ref...))
	return sum[:]
}

// Approve signs a policy with the release key and returns a TPMT_SIGNATURE.
func Approve(release crypto.Signer, policy []byte, ref string) ([]byte, error) {
	der, err := release.Sign(rand.Reader, ApprovalDigest(policy, ref), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign approval %q with the release key: %w", ref, err)
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) != 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, fmt.Errorf("sign approval %q: the release key made no ECDSA P-256 signature", ref)
	}
	// TPMT_SIGNATURE
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgECDSA))
	b = binary.BigEndian.AppendUint16(b, uint16(tpm2.TPMAlgSHA256))
	b = appendSized(b, sig.R.FillBytes(make([]byte, 32)))
	return appendSized(b, sig.S.FillBytes(make([]byte, 32))), nil
}
