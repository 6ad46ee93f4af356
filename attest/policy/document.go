package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/measure/strict"
)

// Version is the version of the file formats.
const Version = 1

// MaxSize is the largest document, in bytes, with its envelope.
const MaxSize = 1 << 20

var (
	// ErrFormat is wrapped by every error about a document's form.
	ErrFormat = errors.New("malformed policy document")
	// ErrSignature means that a document was not signed by the key, or was changed afterwards.
	ErrSignature = errors.New("policy document is not signed by this key")
)

// Kind tells documents apart.
type Kind string

// The kinds of document.
const (
	KindImage   Kind = "image"
	KindLoader  Kind = "loader"
	KindProfile Kind = "profile"
	KindRules   Kind = "rules"
)

// Header begins every document.
type Header struct {
	Version int    `json:"version"` // [Version]
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"` // unique among its kind
}

func (h Header) header() Header { return h }

func (h Header) check(kind Kind) error {
	switch {
	case h.Version != Version:
		return fmt.Errorf("version is %d, this program knows %d", h.Version, Version)
	case h.Kind != kind:
		return fmt.Errorf("kind is %q, want %q", h.Kind, kind)
	case h.Name == "" || len(h.Name) > 128 || strings.TrimFunc(h.Name, func(r rune) bool { return r > ' ' && r <= '~' }) != "":
		return fmt.Errorf("name %q is not 1 to 128 printable characters without spaces", h.Name)
	}
	return nil
}

// Document is an [Image], [Loader], [Profile] or [Rules].
type Document interface {
	header() Header
	check() error
}

// NameOf returns the kind and name of a document.
func NameOf(d Document) (Kind, string) { h := d.header(); return h.Kind, h.Name }

// Parse reads a document. It refuses unknown and repeated fields, and values that contradict each other.
func Parse(raw []byte) (Document, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFormat, len(raw), MaxSize)
	}
	var h struct {
		Kind   Kind            `json:"kind"`
		Signed json.RawMessage `json:"document"`
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var d Document
	switch h.Kind {
	case KindImage:
		d = new(Image)
	case KindLoader:
		d = new(Loader)
	case KindProfile:
		d = new(Profile)
	case KindRules:
		d = new(Rules)
	default:
		if h.Signed != nil {
			return nil, fmt.Errorf("%w: it is signed; say by whom with --signed-by FILE", ErrFormat)
		}
		return nil, fmt.Errorf("%w: kind is %q, want image, loader, profile or rules", ErrFormat, h.Kind)
	}
	err := strict.CheckVersion(raw, Version)
	if err == nil {
		err = strict.Decode(raw, d)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, h.Kind, err)
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%w: %s %q: %w", ErrFormat, h.Kind, d.header().Name, err)
	}
	return d, nil
}

// Marshal writes a document for people to review: indented, fields in a fixed order.
func Marshal(d Document) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("encode policy document: %w", err)
	}
	return b.Bytes(), nil
}

// envelope keeps the document readable: the signature covers its bytes as they stand in the file.
type envelope struct {
	Document  json.RawMessage `json:"document"`
	Signature []byte          `json:"signature"` // ASN.1 ECDSA P-256
}

func signedDigest(raw []byte) []byte {
	inner := sha256.Sum256(raw)
	sum := sha256.Sum256(append([]byte("sealboot/policy/v1\x00"), inner[:]...))
	return sum[:]
}

// Sign wraps a document, as [Marshal] wrote it, into a signed envelope. The key is an ECDSA P-256 one.
func Sign(key crypto.Signer, raw []byte) ([]byte, error) {
	if public, ok := key.Public().(*ecdsa.PublicKey); !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key is not ECDSA P-256", ErrSignature)
	}
	if _, err := Parse(raw); err != nil {
		return nil, err
	}
	raw = bytes.TrimSpace(raw)
	sig, err := key.Sign(rand.Reader, signedDigest(raw), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign policy document: %w", err)
	}
	quoted, err := json.Marshal(sig)
	if err != nil {
		return nil, fmt.Errorf("sign policy document: %w", err)
	}
	return fmt.Appendf(nil, "{\"document\":\n%s,\n\"signature\": %s}\n", raw, quoted), nil
}

// Open verifies an envelope and reads the document in it. Nothing of the document is used before its signature has
// been verified.
func Open(key *ecdsa.PublicKey, raw []byte) (Document, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFormat, len(raw), MaxSize)
	}
	if key == nil || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key is not ECDSA P-256", ErrSignature)
	}
	var e envelope
	if err := strict.Decode(raw, &e); err != nil {
		return nil, fmt.Errorf("%w: not one that \"sealboot policy sign\" has signed: %w", ErrFormat, err)
	}
	if !ecdsa.VerifyASN1(key, signedDigest(e.Document), e.Signature) {
		return nil, ErrSignature
	}
	return Parse(e.Document)
}
