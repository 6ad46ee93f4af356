// Package cosign decides whether an image is signed by keys that are pinned.
//
// It verifies what cosign writes, in both of its forms, with nothing but the
// registry that the image is in: no transparency log, no certificate
// authority, no trust root that has to be fetched.
//
//   - classic: a manifest tagged "sha256-HEX.sig", or one that refers to the
//     image, whose layers are "simple signing" payloads, each with its signature
//     in an annotation;
//   - bundle: a referrer of the image that holds a Sigstore bundle v0.3, a DSSE
//     envelope around an in-toto statement.
//
// A signature says that a key admitted these bytes. It says nothing of how old
// they are: the rollback floor does.
package cosign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	minRSA = 2048 // bits
	maxRSA = 8192
)

// ErrKey is a key of a kind that is not accepted.
var ErrKey = errors.New("unusable public key")

// Key is a public key that may admit images: ECDSA P-256, P-384 or P-521,
// Ed25519 or RSA.
type Key struct {
	id     string
	public crypto.PublicKey
}

// ID is the SHA-256 of the key's PKIX form, in hex.
func (k Key) ID() string { return k.id }

// ParseKey reads a public key in PKIX form, DER or PEM.
func ParseKey(b []byte) (Key, error) {
	if block, _ := pem.Decode(b); block != nil {
		if block.Type != "PUBLIC KEY" {
			return Key{}, fmt.Errorf("%w: PEM type %q, want PUBLIC KEY", ErrKey, block.Type)
		}
		b = block.Bytes
	}
	public, err := x509.ParsePKIXPublicKey(b)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return Key{}, fmt.Errorf("%w: ECDSA %s, want P-256, P-384 or P-521", ErrKey, p.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < minRSA || n > maxRSA {
			return Key{}, fmt.Errorf("%w: RSA of %d bits, want %d to %d", ErrKey, n, minRSA, maxRSA)
		}
	case ed25519.PublicKey:
	default:
		return Key{}, fmt.Errorf("%w: %T", ErrKey, public)
	}
	sum := sha256.Sum256(b)
	return Key{id: hex.EncodeToString(sum[:]), public: public}, nil
}

// verify checks a signature the way cosign makes it. RSA is PKCS #1 v1.5 with
// SHA-256. ECDSA has the hash that belongs to the curve since cosign 3, and had
// SHA-256 for all before. Ed25519 is over the SHA-512 of the message (Ed25519ph)
// since cosign 3, because its log takes hashes only, and was over the message.
func (k Key) verify(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch p := k.public.(type) {
	case *ecdsa.PublicKey:
		h := HashOf(p.Curve).New()
		h.Write(message)
		return ecdsa.VerifyASN1(p, h.Sum(nil), sig) || ecdsa.VerifyASN1(p, sum[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		long := sha512.Sum512(message)
		return ed25519.Verify(p, message, sig) ||
			ed25519.VerifyWithOptions(p, long[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	return false
}

// HashOf is the hash that cosign 3 signs with on a curve.
func HashOf(curve elliptic.Curve) crypto.Hash {
	switch curve {
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return crypto.SHA256
}
