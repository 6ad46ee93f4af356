package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sealboot/sealboot/measure/jsonlimit"
)

// Version is the version of the protocol that every message carries.
const Version = 1

// Limits of a message, in bytes of its encoding.
const (
	MaxMessage  = 16 << 10 // every message but evidence
	MaxEvidence = 4 << 20  // M3, which carries two event logs
)

// Paths of attestd's API. All are POST with a JSON body.
const (
	PathHello     = "/v1/hello"
	PathChallenge = "/v1/attest/challenge"
	PathEvidence  = "/v1/attest/evidence"
	PathAck       = "/v1/attest/ack"
	PathReport    = "/v1/report"
)

// ContentType of every request and answer.
const ContentType = "application/json"

var (
	// ErrMalformed is returned for bytes that are not the one encoding of a valid message.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge is returned for a message above its limit.
	ErrTooLarge = errors.New("message too large")
	// ErrSignature is returned when a signature by the server key does not verify.
	ErrSignature = errors.New("server signature does not verify")
)

// Message is one of this package's messages.
type Message interface {
	limit() int
	check() error
}

// Marshal encodes a message. It fails if the message breaks its own rules or is above its limit.
func Marshal(m Message) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode %T: %w: %w", m, ErrMalformed, err)
	}
	raw, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	if len(raw) > m.limit() {
		return nil, fmt.Errorf("encode %T: %w: %d bytes, limit %d", m, ErrTooLarge, len(raw), m.limit())
	}
	return raw, nil
}

// Unmarshal decodes a message and refuses everything that Marshal would not have written.
// What it leaves in m after an error must not be used.
func Unmarshal(raw []byte, m Message) error {
	if len(raw) > m.limit() {
		return fmt.Errorf("decode %T: %w: %d bytes, limit %d", m, ErrTooLarge, len(raw), m.limit())
	}
	// A list of "" in evidence took 60 times its own size before it was refused.
	if err := (jsonlimit.Limits{Depth: 8, Values: 2048, Items: 1024}).Unmarshal(raw, m); err != nil {
		return fmt.Errorf("decode %T: %w: %w", m, ErrMalformed, err)
	}
	again, err := encode(m)
	if err != nil {
		return fmt.Errorf("decode %T: %w", m, err)
	}
	defer clear(again) // it may hold secrets
	if !bytes.Equal(raw, again) {
		return fmt.Errorf("decode %T: %w: unknown, duplicate or oddly written fields", m, ErrMalformed)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("decode %T: %w: %w", m, ErrMalformed, err)
	}
	return nil
}

// encode writes compact JSON without HTML escaping and without a trailing newline.
func encode(v any) ([]byte, error) {
	if s, ok := v.(*Secrets); ok {
		return s.encode()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// HashMessage is H(): SHA-256 of a message as it was sent or received.
func HashMessage(raw []byte) [32]byte { return sha256.Sum256(raw) }

// checkVersion refuses a message of another protocol version.
func checkVersion(v int) error {
	if v != Version {
		return fmt.Errorf("version %d, want %d", v, Version)
	}
	return nil
}

// checkSize refuses a field that is empty or too long.
func checkSize(name string, n, limit int) error {
	if n == 0 || n > limit {
		return fmt.Errorf("%s is %d bytes, want 1 to %d", name, n, limit)
	}
	return nil
}

// checkExact refuses a field of another length.
func checkExact(name string, n, want int) error {
	if n != want {
		return fmt.Errorf("%s is %d bytes, want %d", name, n, want)
	}
	return nil
}

// checkName accepts the names of sites, decisions and stages: 1 to 64 of A-Z a-z 0-9 . _ -
func checkName(name, s string) error {
	if len(s) == 0 || len(s) > 64 {
		return fmt.Errorf("%s is %d bytes, want 1 to 64", name, len(s))
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("%s holds %q, want A-Z a-z 0-9 . _ -", name, c)
		}
	}
	return nil
}

// checkHex accepts SHA-256 in lower-case hex.
func checkHex(name, s string) error {
	if len(s) != 64 {
		return fmt.Errorf("%s is %d characters, want 64 of lower-case hex", name, len(s))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%s holds %q, want lower-case hex", name, c)
		}
	}
	return nil
}
