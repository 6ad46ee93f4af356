package cosign

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// The names that cosign gives to its forms.
const (
	// SimpleSigningType is the media type of a classic payload, and
	// SignatureAnnotation where its signature is.
	SimpleSigningType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	SignatureAnnotation = "dev.cosignproject.cosign/signature"

	// BundleType is the media type of a Sigstore bundle v0.3.
	BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// PredicateType is that of a statement which signs an image; other
	// statements about it, a list of its parts say, admit nothing.
	PredicateType = "https://sigstore.dev/cosign/sign/v1"

	payloadType   = "application/vnd.in-toto+json"
	simpleType    = "cosign container image signature"
	statementType = "https://in-toto.io/Statement/v1"
	statementOld  = "https://in-toto.io/Statement/v0.1"
)

const maxSignatures = 16 // in one envelope

// ErrSignature is a signature that is malformed, or not of this image, or not
// by one of the keys.
var ErrSignature = errors.New("no valid signature")

// VerifySimple returns the key that signed a classic payload about image.
func VerifySimple(payload []byte, signature string, image digest.Digest, keys []Key) (Key, error) {
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return Key{}, fmt.Errorf("%w: the annotation is not base64", ErrSignature)
	}
	key, err := signer(payload, sig, keys)
	if err != nil {
		return Key{}, err
	}
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return Key{}, fmt.Errorf("%w: payload: %w", ErrSignature, err)
	}
	if p.Critical.Type != simpleType || p.Critical.Image.Digest != image.String() {
		return Key{}, fmt.Errorf("%w: it is a %q of %q", ErrSignature, p.Critical.Type, p.Critical.Image.Digest)
	}
	return key, nil
}

// VerifyBundle returns the keys that signed the statement in a bundle, if that
// is about image. Hints in the bundle as to which key it was are not used.
func VerifyBundle(bundle []byte, image digest.Digest, keys []Key) ([]Key, error) {
	var b struct {
		MediaType string    `json:"mediaType"`
		Envelope  *envelope `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(bundle, &b); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrSignature, err)
	}
	if b.MediaType != BundleType || b.Envelope == nil {
		return nil, fmt.Errorf("%w: the bundle is a %q without DSSE envelope", ErrSignature, b.MediaType)
	}
	if b.Envelope.PayloadType != payloadType {
		return nil, fmt.Errorf("%w: payload type %q", ErrSignature, b.Envelope.PayloadType)
	}
	if len(b.Envelope.Signatures) > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures in one envelope", ErrSignature, len(b.Envelope.Signatures))
	}
	var found []Key
	for _, s := range b.Envelope.Signatures {
		key, err := signer(PAE(b.Envelope.PayloadType, b.Envelope.Payload), s.Sig, keys)
		if err == nil && !slices.ContainsFunc(found, func(k Key) bool { return k.id == key.id }) {
			found = append(found, key)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: none by a pinned key", ErrSignature)
	}
	return found, checkStatement(b.Envelope.Payload, image)
}

// envelope is a DSSE envelope; encoding/json decodes the base64.
type envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

// PAE is DSSE's pre-authentication encoding, the message that is signed.
func PAE(payloadType string, payload []byte) []byte {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	return append([]byte(head), payload...)
}

// checkStatement checks that a signed in-toto statement signs image.
func checkStatement(payload []byte, image digest.Digest) error {
	var st struct {
		Type    string `json:"_type"`
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		PredicateType string `json:"predicateType"`
	}
	if err := json.Unmarshal(payload, &st); err != nil {
		return fmt.Errorf("%w: statement: %w", ErrSignature, err)
	}
	if st.Type != statementType && st.Type != statementOld || st.PredicateType != PredicateType {
		return fmt.Errorf("%w: the statement is a %q with a %q", ErrSignature, st.Type, st.PredicateType)
	}
	about := "nothing"
	for _, s := range st.Subject {
		hash := s.Digest[string(image.Algorithm())]
		if hash == image.Encoded() {
			return nil
		}
		about = fmt.Sprintf("%s:%.64s", image.Algorithm(), hash)
	}
	return fmt.Errorf("%w: the statement is about %s", ErrSignature, about)
}

func signer(message, sig []byte, keys []Key) (Key, error) {
	for _, k := range keys {
		if k.verify(message, sig) {
			return k, nil
		}
	}
	return Key{}, fmt.Errorf("%w: not by a pinned key", ErrSignature)
}
