// Package result is the attestation result (RFC 9334) that attestd gives an admitted device, for the
// software in its OS and for relying parties it talks to.
//
// It is a flattened JWS (RFC 7515, section 7.2.2) with ES256 by the site's server key, so that any JOSE
// library can verify it. The device receives it encrypted, inside its release.
package result

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// ErrInvalid says that a result cannot be read or was not signed by the expected key.
var ErrInvalid = errors.New("attestation result is not valid")

// maxSize bounds an encoded result, in bytes.
const maxSize = 16 << 10

// Result is what attestd found.
type Result struct {
	Issuer    string `json:"iss"`       // the site
	Device    string `json:"sub"`       // hex SHA-256 of the endorsement key's public area
	Decision  string `json:"jti"`       // the audit record
	IssuedAt  int64  `json:"iat"`       // seconds since 1970
	Tier      string `json:"tier"`      // what endorsed the device: "certificate", "hash" or "token"
	Image     string `json:"image"`     // name of the reference values its image matched
	Version   int64  `json:"version"`   // of that image
	FirstBoot bool   `json:"firstBoot"` // no boot was acknowledged yet: blank volumes may be formatted
	URL       string `json:"url"`       // attestd's address
	ServerKey string `json:"serverKey"` // base64 PKIX, as in the site config
}

// jws is the flattened serialization.
type jws struct {
	Protected string `json:"protected"`
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

const header = `{"alg":"ES256","typ":"sealboot-result+json"}`

var b64 = base64.RawURLEncoding.Strict()

// rs is how crypto.Signer returns an ECDSA signature; JOSE wants r || s.
type rs struct{ R, S *big.Int }

// Sign encodes and signs a result with an ECDSA P-256 key.
func Sign(key crypto.Signer, r Result) ([]byte, error) {
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("sign attestation result: the server key is not a P-256 key")
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("sign attestation result: %w", err)
	}
	out := jws{Protected: b64.EncodeToString([]byte(header)), Payload: b64.EncodeToString(payload)}
	digest := sha256.Sum256([]byte(out.Protected + "." + out.Payload))
	der, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign attestation result: %w", err)
	}
	var sig rs
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("sign attestation result: %w", err)
	}
	raw := make([]byte, 64)
	sig.R.FillBytes(raw[:32])
	sig.S.FillBytes(raw[32:])
	out.Signature = b64.EncodeToString(raw)
	return json.Marshal(out)
}

// Parse reads a result without verifying it, for the device that received it under its own TPM's
// protection.
func Parse(data []byte) (Result, error) {
	_, r, err := parse(data)
	return r, err
}

// Verify reads a result and checks its signature.
func Verify(data []byte, key *ecdsa.PublicKey) (Result, error) {
	j, r, err := parse(data)
	if err != nil {
		return Result{}, err
	}
	raw, err := b64.DecodeString(j.Signature)
	if err != nil || len(raw) != 64 {
		return Result{}, fmt.Errorf("%w: its signature has the wrong form", ErrInvalid)
	}
	digest := sha256.Sum256([]byte(j.Protected + "." + j.Payload))
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])) {
		return Result{}, fmt.Errorf("%w: it is not signed by the expected key", ErrInvalid)
	}
	return r, nil
}

func parse(data []byte) (jws, Result, error) {
	if len(data) > maxSize {
		return jws{}, Result{}, fmt.Errorf("%w: %d bytes, want at most %d", ErrInvalid, len(data), maxSize)
	}
	var j jws
	if err := json.Unmarshal(data, &j); err != nil {
		return jws{}, Result{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if j.Protected != b64.EncodeToString([]byte(header)) {
		return jws{}, Result{}, fmt.Errorf("%w: its header is not ours", ErrInvalid)
	}
	payload, err := b64.DecodeString(j.Payload)
	if err != nil {
		return jws{}, Result{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var r Result
	if err := json.Unmarshal(payload, &r); err != nil {
		return jws{}, Result{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return j, r, nil
}
