package wire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
)

// Domain separates signatures by the kind of message, so that none can be taken for another.
type Domain string

// Domains of the server key. A signature covers SHA-256(domain || 0 || binding || SHA-256(payload)).
const (
	DomainHello     Domain = "sealboot/hello/v1"     // binding: H(hello request)
	DomainChallenge Domain = "sealboot/challenge/v1" // binding: H(M1)
	DomainRelease   Domain = "sealboot/release/v1"   // binding: T
)

// Signed is the envelope of everything that attestd says.
type Signed struct {
	Payload   []byte `json:"payload"`   // the inner message, exactly as signed
	Signature []byte `json:"signature"` // ASN.1 ECDSA P-256
}

func (*Signed) limit() int { return MaxMessage }

func (s *Signed) check() error {
	if err := checkSize("payload", len(s.Payload), MaxMessage); err != nil {
		return err
	}
	return checkSize("signature", len(s.Signature), 80)
}

func signedDigest(d Domain, binding [32]byte, payload []byte) []byte {
	inner := sha256.Sum256(payload)
	h := sha256.New()
	h.Write([]byte(d))
	h.Write([]byte{0})
	h.Write(binding[:])
	h.Write(inner[:])
	return h.Sum(nil)
}

// Sign encodes m and wraps it into a Signed envelope. The key is an ECDSA P-256 key, in memory or in an HSM.
func Sign(key crypto.Signer, d Domain, binding [32]byte, m Message) ([]byte, error) {
	if err := checkServerKey(key.Public()); err != nil {
		return nil, fmt.Errorf("sign %s: %w", d, err)
	}
	payload, err := Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", d, err)
	}
	sig, err := key.Sign(rand.Reader, signedDigest(d, binding, payload), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign %s with the server key: %w", d, err)
	}
	return Marshal(&Signed{Payload: payload, Signature: sig})
}

// Open verifies an envelope and decodes its payload into m. Nothing of the payload is parsed before the signature
// has been verified. A wrong signature is [ErrSignature].
func Open(key crypto.PublicKey, d Domain, binding [32]byte, raw []byte, m Message) error {
	if err := checkServerKey(key); err != nil {
		return fmt.Errorf("open %s: %w", d, err)
	}
	var s Signed
	if err := Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("open %s: %w", d, err)
	}
	if !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), signedDigest(d, binding, s.Payload), s.Signature) {
		return fmt.Errorf("open %s: %w", d, ErrSignature)
	}
	if err := Unmarshal(s.Payload, m); err != nil {
		return fmt.Errorf("open %s: %w", d, err)
	}
	return nil
}

// Payload decodes the payload of an envelope whose authenticity is shown by other means, as attestd does with its
// own M2 that comes back next to the cookie.
func Payload(raw []byte, m Message) error {
	var s Signed
	if err := Unmarshal(raw, &s); err != nil {
		return err
	}
	return Unmarshal(s.Payload, m)
}

// ParseKey reads a P-256 public key from base64 PKIX, as the site config holds the server and release keys.
func ParseKey(s string) (*ecdsa.PublicKey, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	if err := checkServerKey(k); err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	return k.(*ecdsa.PublicKey), nil
}

// FormatKey is the inverse of ParseKey.
func FormatKey(k *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return "", fmt.Errorf("format public key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

func checkServerKey(k crypto.PublicKey) error {
	e, ok := k.(*ecdsa.PublicKey)
	if !ok || e == nil || e.Curve != elliptic.P256() {
		return fmt.Errorf("key is %T, want ECDSA P-256", k)
	}
	return nil
}
