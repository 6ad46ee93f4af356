// Package event defines what Sealboot measures: the content of one event of its
// Canonical Event Log, and the boot descriptor that says what is about to run.
//
// The device that measures, the verifier that judges and the tool that predicts
// all have to agree on every byte, so the encoding is canonical: a [Record] or a
// [Descriptor] has exactly one encoding, and the parsers refuse every other one.
package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// The PCRs that Sealboot extends, unless the site config names others.
const (
	PCRImage     = 12 // what will run, and the markers that end the loader
	PCRAuthority = 13 // why it may run
)

// MaxRecordSize is the size in bytes of the longest encoded [Record].
const MaxRecordSize = 4096

// maxTokenSize bounds types and names, which are identifiers, in bytes.
const maxTokenSize = 64

// ErrInvalid is wrapped by every error about a record or a descriptor.
var ErrInvalid = errors.New("invalid event")

// Type says what a record is about.
type Type string

// The types of event, in the order in which a boot may produce them.
const (
	TypeHostConfig     Type = "host-config"
	TypeSiteConfig     Type = "site-config"
	TypeProvenance     Type = "provenance"
	TypeReleaseKey     Type = "release-key"
	TypeClock          Type = "clock"
	TypeFloor          Type = "floor"
	TypeBootDescriptor Type = "boot-descriptor"
	TypeArtifact       Type = "artifact"
	TypeDiskUnverified Type = "disk-unverified"

	TypeCap    Type = "cap"    // the loader has ended, nothing is released any more
	TypeShell  Type = "shell"  // somebody was given a shell in the loader
	TypeFailed Type = "failed" // the boot failed after the image was measured
)

// Names of a record of TypeFloor: where the rollback floor of the boot was.
const (
	FloorNV       = "nv"       // in the TPM
	FloorRepaired = "repaired" // in the TPM, written in this boot on attestd's order
	FloorDisk     = "disk"     // in a file, which anyone who has the disk can lower
	FloorAbsent   = "absent"   // nowhere
)

// Record is the content of one event.
//
// Its encoding is JSON with the fields in this order, without spaces and without
// HTML escaping, the keys of Detail sorted, at most [MaxRecordSize] bytes.
type Record struct {
	// Type is a token: lower-case letters, digits, '-' and '.'.
	Type Type `json:"type"`
	// Name is a token too: the role of an artifact, the kind of a boot
	// descriptor, the sort of thing that a provenance record names.
	Name string `json:"name,omitempty"`
	// SHA256 is the digest of the thing measured, in lower-case hex.
	SHA256 string `json:"sha256,omitempty"`
	// Size is the length of the thing measured, in bytes.
	Size int64 `json:"size,omitempty"`
	// Detail is whatever a reader of the log should know beyond that.
	Detail map[string]string `json:"detail,omitempty"`
}

// CapRecord returns the record that ends the loader: it is extended into
// [PCRImage] after the last secret was obtained and just before kexec.
func CapRecord() Record { return Record{Type: TypeCap} }

// Marshal returns the canonical encoding of r. It fails when r is not valid
// UTF-8, is too long, or breaks a rule that the fields of [Record] state.
func (r Record) Marshal() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	b, err := marshalCanonical(r)
	if err != nil {
		return nil, fmt.Errorf("%w: encode %s record: %w", ErrInvalid, r.Type, err)
	}
	if len(b) > MaxRecordSize {
		return nil, fmt.Errorf("%w: %s record is %d bytes, more than %d", ErrInvalid, r.Type, len(b), MaxRecordSize)
	}
	return b, nil
}

// Parse decodes a record. It refuses every encoding but the one that
// [Record.Marshal] gives.
func Parse(b []byte) (Record, error) {
	if len(b) > MaxRecordSize {
		return Record{}, fmt.Errorf("%w: record is %d bytes, more than %d", ErrInvalid, len(b), MaxRecordSize)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("%w: decode record: %w", ErrInvalid, err)
	}
	canonical, err := r.Marshal()
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(b, canonical) {
		return Record{}, fmt.Errorf("%w: %s record is not in canonical form", ErrInvalid, r.Type)
	}
	return r, nil
}

func (r Record) validate() error {
	if !isToken(string(r.Type)) {
		return fmt.Errorf("%w: type %q is not a token", ErrInvalid, r.Type)
	}
	if r.Name != "" && !isToken(r.Name) {
		return fmt.Errorf("%w: name %q of %s record is not a token", ErrInvalid, r.Name, r.Type)
	}
	if r.SHA256 != "" && !isSHA256(r.SHA256) {
		return fmt.Errorf("%w: sha256 %q of %s record is not 64 lower-case hex digits", ErrInvalid, r.SHA256, r.Type)
	}
	if r.Size < 0 {
		return fmt.Errorf("%w: size %d of %s record is negative", ErrInvalid, r.Size, r.Type)
	}
	for k, v := range r.Detail {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("%w: detail %q of %s record is not UTF-8", ErrInvalid, k, r.Type)
		}
	}
	return nil
}

// marshalCanonical is encoding/json without HTML escaping and without the
// newline that its Encoder adds.
func marshalCanonical(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func isToken(s string) bool {
	if s == "" || len(s) > maxTokenSize {
		return false
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
