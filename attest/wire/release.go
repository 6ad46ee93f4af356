package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Release is M4, signed under [DomainRelease] over T.
//
// In phase boot everything that names the device is inside Box, the agent certificate too: until the credential has
// been activated no one knows that the AK lives next to the EK, and anyone can send the public key of an EK. In phase
// renew there is no activation: attestd answers only to the AK and agent key that an earlier boot has proven.
type Release struct {
	Version  int    `json:"version"`
	Decision string `json:"decision"` // identifies the audit record
	Phase    Phase  `json:"phase"`

	Credential      []byte `json:"credential,omitempty"`      // contents of TPM2B_ID_OBJECT
	EncryptedSecret []byte `json:"encryptedSecret,omitempty"` // contents of TPM2B_ENCRYPTED_SECRET
	Approval        []byte `json:"approval,omitempty"`        // TPMT_SIGNATURE of the release key, "release/v1"
	Box             []byte `json:"box,omitempty"`             // Secrets, sealed with K

	AgentCertificate []byte `json:"agentCertificate,omitempty"` // PEM; phase renew only
	AgentPCRs        []int  `json:"agentPCRs"`                  // PCRs that the agent approval is over
	AgentBank        string `json:"agentBank"`
	AgentApproval    []byte `json:"agentApproval"` // TPMT_SIGNATURE of the release key, "agent-key/v1", after-cap values
}

func (*Release) limit() int { return MaxMessage }

func (r *Release) check() error {
	var phase error
	switch r.Phase {
	case PhaseBoot:
		if r.AgentCertificate != nil {
			phase = errors.New("the agent certificate of a boot belongs into the box")
		}
		phase = errors.Join(phase,
			checkSize("credential", len(r.Credential), 1<<10),
			checkSize("encryptedSecret", len(r.EncryptedSecret), 1<<10),
			checkSize("approval", len(r.Approval), 1<<10),
			checkSize("box", len(r.Box), MaxMessage),
		)
	case PhaseRenew:
		if r.Credential != nil || r.EncryptedSecret != nil || r.Approval != nil || r.Box != nil {
			phase = errors.New("a renewal carries no secrets")
		}
		phase = errors.Join(phase, checkSize("agentCertificate", len(r.AgentCertificate), 8<<10))
	default:
		phase = fmt.Errorf("phase is %q", r.Phase)
	}
	return errors.Join(
		checkVersion(r.Version),
		checkName("decision", r.Decision),
		phase,
		checkPCRs("agentPCRs", r.AgentPCRs),
		checkName("agentBank", r.AgentBank),
		checkSize("agentApproval", len(r.AgentApproval), 1<<10),
	)
}

// KeySize is the size of K, the secret inside the credential, in bytes.
const KeySize = 32

// NewSecretsSealer derives from K the AEAD of one release. K is fresh for every release and T is in the derivation,
// so the key is used for one message only.
func NewSecretsSealer(k []byte, t [32]byte) (*Sealer, error) {
	if err := checkExact("K", len(k), KeySize); err != nil {
		return nil, err
	}
	return newSealer(k, t[:], "sealboot/secrets/v1")
}

func releaseAAD(t [32]byte, decision string) []byte { return append(t[:], decision...) }

// SealSecrets encrypts secrets for one release; the associated data is T || decision.
func SealSecrets(k []byte, t [32]byte, decision string, s *Secrets) ([]byte, error) {
	a, err := NewSecretsSealer(k, t)
	if err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	plain, err := Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	defer clear(plain)
	return a.Seal(nil, plain, releaseAAD(t, decision)), nil
}

// OpenSecrets is the inverse of SealSecrets.
func OpenSecrets(k []byte, t [32]byte, decision string, box []byte) (*Secrets, error) {
	a, err := NewSecretsSealer(k, t)
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	plain, err := a.Open(box, releaseAAD(t, decision))
	if err != nil {
		return nil, fmt.Errorf("open secrets of decision %s: %w", decision, err)
	}
	defer clear(plain)
	var s Secrets
	if err := Unmarshal(plain, &s); err != nil {
		s.Wipe()
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	return &s, nil
}

// AgentApproval is what the OS needs, next to the certificate, to use the agent key: the policy that the TPM will
// insist on, and the release key's signature over it. It is public, and handed over as a file.
type AgentApproval struct {
	Version    int    `json:"version"`
	Bank       string `json:"bank"`
	PCRs       []int  `json:"pcrs"`
	Signature  []byte `json:"signature"`  // TPMT_SIGNATURE
	ReleaseKey []byte `json:"releaseKey"` // PKIX, P-256
}

func (*AgentApproval) limit() int { return MaxMessage }

func (a *AgentApproval) check() error {
	return errors.Join(
		checkVersion(a.Version),
		checkName("bank", a.Bank),
		checkPCRs("pcrs", a.PCRs),
		checkSize("signature", len(a.Signature), 1<<10),
		checkSize("releaseKey", len(a.ReleaseKey), 1<<10),
	)
}

// Ack is M5: only the TPM that was attested could have recovered K.
type Ack struct {
	Version  int    `json:"version"`
	Decision string `json:"decision"`
	MAC      []byte `json:"mac"` // [AckMAC]
}

func (*Ack) limit() int { return MaxMessage }

func (a *Ack) check() error {
	return errors.Join(checkVersion(a.Version), checkName("decision", a.Decision), checkExact("mac", len(a.MAC), sha256.Size))
}

// AckMAC is the MAC that M5 must carry. attestd can compute and store it when it makes M4, and forget K.
func AckMAC(k []byte, t [32]byte, decision string) ([]byte, error) {
	if err := checkExact("K", len(k), KeySize); err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, k, t[:], "sealboot/ack/v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive ack key: %w", err)
	}
	defer clear(key)
	m := hmac.New(sha256.New, key)
	m.Write([]byte("ack"))
	m.Write([]byte(decision))
	return m.Sum(nil), nil
}

// Matches compares M5 with the expected MAC in constant time.
func (a *Ack) Matches(mac []byte) bool { return len(mac) == sha256.Size && hmac.Equal(a.MAC, mac) }

// Sealer is AES-256-GCM under a key that seals one message in its life, hence its constant nonce.
type Sealer struct{ aead cipher.AEAD }

func newSealer(secret, salt []byte, info string) (*Sealer, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, info, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return &Sealer{aead}, nil
}

// Seal appends the sealed message to dst.
func (s *Sealer) Seal(dst, plain, aad []byte) []byte {
	return s.aead.Seal(dst, make([]byte, s.aead.NonceSize()), plain, aad)
}

// Open decrypts a sealed message.
func (s *Sealer) Open(sealed, aad []byte) ([]byte, error) {
	return s.aead.Open(nil, make([]byte, s.aead.NonceSize()), sealed, aad)
}
