// Package sign puts signatures on TUF metadata.
//
// A key is a [crypto.Signer], so that a file, a token and a hardware module are
// the same to everything above. A key is known by its public part: the
// identifier is the one that the repository gives it, whatever made that.
package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ErrKey is a key that cannot be used: of another type than Ed25519, ECDSA
// P-256 or P-384 and RSA of at least 2048 bits, or damaged.
var ErrKey = errors.New("unusable key")

const minRSABits = 2048

// PublicKey returns the TUF form of a public key and its identifier.
func PublicKey(pub crypto.PublicKey) (*metadata.Key, string, error) {
	key, err := metadata.KeyFromPublicKey(pub)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
		case elliptic.P384():
			key.Scheme = metadata.KeySchemeECDSA_SHA2_P384
		default:
			return nil, "", fmt.Errorf("%w: curve %s", ErrKey, pub.Params().Name)
		}
	case *rsa.PublicKey:
		if pub.N.BitLen() < minRSABits {
			return nil, "", fmt.Errorf("%w: RSA of %d bits", ErrKey, pub.N.BitLen())
		}
	}
	id, err := key.ID()
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, id, nil
}

// IDs returns the identifiers under which keys has the public key pub.
func IDs(keys map[string]*metadata.Key, pub crypto.PublicKey) []string {
	want, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil
	}
	var ids []string
	for id, k := range keys {
		if k == nil {
			continue
		}
		p, err := k.ToPublicKey()
		if err != nil {
			continue
		}
		if der, err := x509.MarshalPKIXPublicKey(p); err == nil && string(der) == string(want) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Metadata signs md as the key called id, in the place of an earlier signature
// of that key.
func Metadata[T metadata.Roles](md *metadata.Metadata[T], id string, key crypto.Signer) error {
	payload, err := cjson.EncodeCanonical(md.Signed)
	if err != nil {
		return fmt.Errorf("encode what is to be signed: %w", err)
	}
	sig, err := Bytes(key, payload)
	if err != nil {
		return err
	}
	md.Signatures = slices.DeleteFunc(md.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
	md.Signatures = append(md.Signatures, metadata.Signature{KeyID: id, Signature: sig})
	return nil
}

// Bytes signs payload with the scheme that [PublicKey] gives the key.
func Bytes(key crypto.Signer, payload []byte) ([]byte, error) {
	var (
		sig []byte
		err error
	)
	switch pub := key.Public().(type) {
	case ed25519.PublicKey:
		sig, err = key.Sign(rand.Reader, payload, crypto.Hash(0))
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P384() {
			sum := sha512.Sum384(payload)
			sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA384)
			break
		}
		sum := sha256.Sum256(payload)
		sig, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	case *rsa.PublicKey:
		sum := sha256.Sum256(payload)
		sig, err = key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	default:
		return nil, fmt.Errorf("%w: %T", ErrKey, pub)
	}
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// ParsePrivate reads a private key from PEM: PKCS #8, or the older forms of
// ECDSA and RSA keys.
func ParsePrivate(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%w: not PEM", ErrKey)
	}
	var (
		key any
		err error
	)
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%w: PEM of type %q", ErrKey, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %T cannot sign", ErrKey, key)
	}
	if _, _, err := PublicKey(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// ParsePublic reads a public key from PEM (PKIX).
func ParsePublic(data []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%w: not a public key in PEM", ErrKey)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if _, _, err := PublicKey(pub); err != nil {
		return nil, err
	}
	return pub, nil
}

// Generate writes a new Ed25519 private key to a file that must not exist, for
// its owner's eyes only.
func Generate(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("generate a key: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
