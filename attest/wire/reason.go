package wire

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/measure/plaintext"
)

// Code names why evidence was denied. Codes are stable: people write alerts on them.
type Code string

// Codes, in the order in which the checks are made.
const (
	CodeMalformed    Code = "malformed"       // not a message of this protocol
	CodeCookie       Code = "cookie"          // the challenge is not this site's, or belongs to another request
	CodeExpired      Code = "expired"         // the challenge is older than its life
	CodeReplayed     Code = "replayed"        // the challenge was answered before
	CodeDevice       Code = "device-unknown"  // the EK is not enrolled, or is blocked
	CodeEK           Code = "ek"              // EK public area or certificate
	CodeAK           Code = "ak"              // AK public area
	CodeAgentKey     Code = "agent-key"       // agent key public area
	CodeQuoteFormat  Code = "quote-format"    // magic or type: not a quote made by a TPM
	CodeNonce        Code = "nonce"           // extraData is not T
	CodeSelection    Code = "selection"       // other PCRs or bank than asked for
	CodeSignature    Code = "signature"       // the AK did not sign this
	CodePCRDigest    Code = "pcr-digest"      // the PCR values are not those of the quote
	CodeCertify      Code = "certify"         // the agent key is not certified by the AK
	CodeLog          Code = "log"             // a log cannot be parsed
	CodeReplay       Code = "replay"          // a log does not explain a PCR
	CodeUnmeasured   Code = "unmeasured"      // PCR 0-7 all zero, or a required PCR without events
	CodeForeignEvent Code = "foreign-event"   // firmware wrote to the loader's PCRs
	CodePhase        Code = "phase"           // markers (cap, shell, failed) do not fit the phase
	CodeImage        Code = "image"           // PCR 12 is no known image
	CodeAuthority    Code = "authority"       // PCR 13: site config, provenance, clock or floor not allowed
	CodeLoader       Code = "loader"          // the loader (UKI) is not a known one
	CodeFirmware     Code = "firmware"        // platform firmware differs from its profile
	CodeRollback     Code = "rollback"        // older than what this device has run
	CodeUnverified   Code = "disk-unverified" // a disk that no one verifies again
	CodePolicy       Code = "policy"          // another rule of the appraisal policy
)

// Reason is one finding against the evidence. Texts that come from the device are quoted and cut; anyone who shows
// them escapes them for his medium.
type Reason struct {
	Code     Code   `json:"code"`
	PCR      *int   `json:"pcr,omitempty"`
	Event    string `json:"event,omitempty"` // which event: "artifact kernel", "#12 EV_EFI_BOOT_SERVICES_APPLICATION"
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Detail   string `json:"detail,omitempty"` // a sentence for people, with what to do next where that is known
}

// Limits of what a denial tells.
const (
	MaxReasons    = 16 // of a failure; more are dropped
	maxReasonText = 240
)

// String is the reason on one line, as a console or an audit log shows it, with digests cut to what tells them apart:
// "image: PCR 12, artifact kernel: differs from reference demo: found sha256:05f6.. (9 bytes), expected sha256:b5bb.. (9 bytes)".
func (r Reason) String() string {
	var b strings.Builder
	b.WriteString(string(r.Code))
	if r.PCR != nil {
		fmt.Fprintf(&b, ": PCR %d", *r.PCR)
	}
	if r.Event != "" {
		fmt.Fprintf(&b, ", %s", r.Event)
	}
	if r.Detail != "" {
		fmt.Fprintf(&b, ": %s", r.Detail)
	}
	separator := ": "
	if r.Found != "" {
		b.WriteString(separator + "found " + shorten(r.Found))
		separator = ", "
	}
	if r.Expected != "" {
		b.WriteString(separator + "expected " + shorten(r.Expected))
	}
	return b.String()
}

// Digests are shown by their beginning.
const (
	minDigest   = 40 // hex digits: SHA-1
	shownDigest = 12
)

// shorten cuts every digest in a text.
func shorten(s string) string {
	var b strings.Builder
	for s != "" {
		n := 0
		for n < len(s) && strings.IndexByte("0123456789abcdef", s[n]) >= 0 {
			n++
		}
		if n >= minDigest {
			b.WriteString(s[:shownDigest] + "..")
		} else {
			n = max(n, 1)
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// At is a pointer to a PCR number, for [Reason.PCR].
func At(pcr int) *int { return &pcr }

// Failure is the body of every answer that is not a success. It is not signed: an attacker who can forge it can
// also cut the line, and the device does nothing on a failure but try again or stop.
type Failure struct {
	Version  int      `json:"version"`
	Code     Code     `json:"code"`
	Decision string   `json:"decision,omitempty"` // the audit record, if there is one
	Reasons  []Reason `json:"reasons,omitempty"`
}

// CodeUnavailable is a Failure's code when attestd could not decide; the device tries again.
const CodeUnavailable Code = "unavailable"

func (*Failure) limit() int { return MaxMessage }

func (f *Failure) check() error {
	if len(f.Reasons) > MaxReasons {
		return fmt.Errorf("%d reasons, want at most %d", len(f.Reasons), MaxReasons)
	}
	var decision error
	if f.Decision != "" {
		decision = checkName("decision", f.Decision)
	}
	return errors.Join(checkVersion(f.Version), checkName("code", string(f.Code)), decision)
}

// NewFailure encodes a failure and cuts what is too long, so that it always fits a message.
func NewFailure(code Code, decision string, reasons []Reason) []byte {
	f := &Failure{Version: Version, Code: code, Decision: decision}
	for _, r := range reasons[:min(len(reasons), MaxReasons)] {
		r.Event, r.Expected, r.Found, r.Detail = Clean(r.Event), Clean(r.Expected), Clean(r.Found), Clean(r.Detail)
		f.Reasons = append(f.Reasons, r)
	}
	for {
		raw, err := Marshal(f)
		if err == nil {
			return raw
		}
		if len(f.Reasons) == 0 {
			return []byte(`{"version":1,"code":"unavailable"}`)
		}
		f.Reasons = f.Reasons[:len(f.Reasons)-1]
	}
}

// Clean makes text of the other side fit for one line of a log or a terminal: printable ASCII, at most 240 bytes.
func Clean(s string) string {
	return plaintext.Line(s, maxReasonText)
}
