package cosign

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/sealboot/sealboot/measure/jsonlimit"
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
	// PredicateAnnotation is where a referrer says what is in it.
	PredicateType       = "https://sigstore.dev/cosign/sign/v1"
	PredicateAnnotation = "dev.sigstore.bundle.predicateType"

	// ClassicType is the artifact type of a referrer with classic signatures,
	// which cosign makes instead of a tag in its OCI 1.1 mode.
	ClassicType = "application/vnd.dev.cosign.artifact.sig.v1+json"

	payloadType   = "application/vnd.in-toto+json"
	simpleType    = "cosign container image signature"
	statementType = "https://in-toto.io/Statement/v1"
	statementOld  = "https://in-toto.io/Statement/v0.1"
)

const maxSignatures = 16 // in one envelope

// ErrSignature is a signature that is malformed, or not of this image, or not
// by one of the keys.
var ErrSignature = errors.New("no valid signature")

// Demand is what a signature has to say, besides being by a key.
type Demand struct {
	Image digest.Digest
	// Identity is the repository that the signer named, as "registry/name";
	// empty if that does not matter.
	Identity string
}

// VerifySimple returns the key that signed a classic payload that says what is
// demanded.
func VerifySimple(payload []byte, signature string, want Demand, keys []Key) (Key, error) {
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
			Type     string `json:"type"`
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := jsonlimit.Usual(len(payload)).Unmarshal(payload, &p); err != nil {
		return Key{}, fmt.Errorf("%w: payload: %w", ErrSignature, err)
	}
	if p.Critical.Type != simpleType || p.Critical.Image.Digest != want.Image.String() {
		return Key{}, fmt.Errorf("%w: it is a %.80q of %.80q", ErrSignature, p.Critical.Type, p.Critical.Image.Digest)
	}
	return key, want.named(p.Critical.Identity.Reference)
}

// named checks the name that a signer gave to the image. A tag or digest behind
// it does not matter: the demand is a repository.
func (d Demand) named(reference string) error {
	if d.Identity == "" || Repository(reference) == d.Identity {
		return nil
	}
	return fmt.Errorf("%w: it names the image %.80q, and %q is demanded", ErrSignature, reference, d.Identity)
}

// Repository cuts tag and digest off a reference.
func Repository(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// VerifyBundle returns the keys that signed the statement in a bundle, if that
// says what is demanded. Hints in the bundle as to which key it was are not used.
func VerifyBundle(bundle []byte, want Demand, keys []Key) ([]Key, error) {
	e, err := parseBundle(bundle)
	if err != nil {
		return nil, err
	}
	return e.verify(want, keys)
}

func parseBundle(bundle []byte) (*envelope, error) {
	var b struct {
		MediaType string    `json:"mediaType"`
		Envelope  *envelope `json:"dsseEnvelope"`
	}
	if err := jsonlimit.Usual(len(bundle)).Unmarshal(bundle, &b); err != nil {
		return nil, fmt.Errorf("%w: bundle: %w", ErrSignature, err)
	}
	if b.MediaType != BundleType || b.Envelope == nil {
		return nil, fmt.Errorf("%w: the bundle is a %.80q without DSSE envelope", ErrSignature, b.MediaType)
	}
	if b.Envelope.PayloadType != payloadType {
		return nil, fmt.Errorf("%w: payload type %.80q", ErrSignature, b.Envelope.PayloadType)
	}
	if len(b.Envelope.Signatures) > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures in one envelope", ErrSignature, len(b.Envelope.Signatures))
	}
	return b.Envelope, nil
}

// envelope is a DSSE envelope; encoding/json decodes the base64.
type envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

func (e *envelope) verify(want Demand, keys []Key) ([]Key, error) {
	var found []Key
	for _, s := range e.Signatures {
		key, err := signer(PAE(e.PayloadType, e.Payload), s.Sig, keys)
		if err == nil && !slices.ContainsFunc(found, func(k Key) bool { return k.id == key.id }) {
			found = append(found, key)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: none by a pinned key", ErrSignature)
	}
	st, err := e.statement()
	if err != nil {
		return nil, err
	}
	return found, st.check(want)
}

// statement is an in-toto statement.
type statement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
}

func (e *envelope) statement() (*statement, error) {
	st := new(statement)
	if err := jsonlimit.Usual(len(e.Payload)).Unmarshal(e.Payload, st); err != nil {
		return nil, fmt.Errorf("%w: statement: %w", ErrSignature, err)
	}
	return st, nil
}

// signs checks that a statement is one that signs something.
func (st *statement) signs() error {
	if st.Type != statementType && st.Type != statementOld || st.PredicateType != PredicateType {
		return fmt.Errorf("%w: the statement is a %.80q with a %.80q", ErrSignature, st.Type, st.PredicateType)
	}
	return nil
}

// check checks that a signed statement says what is demanded.
func (st *statement) check(want Demand) error {
	if err := st.signs(); err != nil {
		return err
	}
	alg := want.Image.Algorithm()
	err := fmt.Errorf("%w: the statement is about nothing", ErrSignature)
	for _, s := range st.Subject {
		if hash := s.Digest[string(alg)]; hash != want.Image.Encoded() {
			err = fmt.Errorf("%w: the statement is about %s:%.64s", ErrSignature, alg, hash)
		} else if err = want.named(s.Name); err == nil {
			return nil
		}
	}
	return err
}

// PAE is DSSE's pre-authentication encoding, the message that is signed.
func PAE(payloadType string, payload []byte) []byte {
	head := fmt.Sprintf("DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	return append([]byte(head), payload...)
}

func signer(message, sig []byte, keys []Key) (Key, error) {
	for _, k := range keys {
		if k.verify(message, sig) {
			return k, nil
		}
	}
	return Key{}, fmt.Errorf("%w: not by a pinned key", ErrSignature)
}
