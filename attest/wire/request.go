package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Phase says what the device asks for.
type Phase string

// Phases of an exchange.
const (
	PhaseBoot  Phase = "boot"  // from the loader, before the cap: secrets and agent certificate
	PhaseRenew Phase = "renew" // from the running OS, after the cap: a new agent certificate, never secrets
)

// Request is M1. Its bytes as sent are what H(M1) covers.
type Request struct {
	Device []byte `json:"device"`         // a Device, encoded
	Join   []byte `json:"join,omitempty"` // [JoinMAC] over Device, while the device is not enrolled
}

func (*Request) limit() int { return MaxMessage }

func (r *Request) check() error {
	if err := checkSize("device", len(r.Device), MaxMessage); err != nil {
		return err
	}
	if r.Join != nil {
		return checkExact("join", len(r.Join), sha256.Size)
	}
	return nil
}

// Device is the body of M1: which TPM, which keys, which site. TPM structures are in TPM wire format.
type Device struct {
	Version       int      `json:"version"`
	Site          string   `json:"site"`
	Phase         Phase    `json:"phase"`
	Nonce         []byte   `json:"nonce"`                   // 32 bytes, fresh
	EKPublic      []byte   `json:"ekPublic"`                // TPMT_PUBLIC
	EKCertificate []byte   `json:"ekCertificate,omitempty"` // as read from NV: DER, perhaps padded
	AKPublic      []byte   `json:"akPublic"`                // TPMT_PUBLIC
	AgentPublic   []byte   `json:"agentPublic"`             // TPMT_PUBLIC
	Banks         []string `json:"banks"`                   // active PCR banks: "sha256", "sha384", ...
	Loader        string   `json:"loader"`                  // version of the software that speaks; untrusted, for people
	Orders        uint64   `json:"orders,omitempty"`        // [Hello.Orders] as this boot heard it; 0 if it heard none
}

func (*Device) limit() int { return MaxMessage }

func (d *Device) check() error {
	if d.Phase != PhaseBoot && d.Phase != PhaseRenew {
		return fmt.Errorf("phase is %q, want %q or %q", d.Phase, PhaseBoot, PhaseRenew)
	}
	if d.EKCertificate != nil {
		if err := checkSize("ekCertificate", len(d.EKCertificate), 8<<10); err != nil {
			return err
		}
	}
	if len(d.Banks) == 0 || len(d.Banks) > 8 {
		return fmt.Errorf("%d banks, want 1 to 8", len(d.Banks))
	}
	for _, b := range d.Banks {
		if err := checkName("bank", b); err != nil {
			return err
		}
	}
	return errors.Join(
		checkVersion(d.Version),
		checkName("site", d.Site),
		checkExact("nonce", len(d.Nonce), 32),
		checkSize("ekPublic", len(d.EKPublic), 1<<10),
		checkSize("akPublic", len(d.AKPublic), 1<<10),
		checkSize("agentPublic", len(d.AgentPublic), 1<<10),
		checkSize("loader", len(d.Loader), 128),
	)
}

// ID is the identity of the device: hex SHA-256 of the EK's public area.
func (d *Device) ID() string { return KeyID(d.EKPublic) }

// KeyID is hex SHA-256 of a key's public area (TPMT_PUBLIC).
func KeyID(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}

// NewRequest makes M1. The token is nil for a device that is enrolled or has none.
func NewRequest(d *Device, token []byte) ([]byte, error) {
	body, err := Marshal(d)
	if err != nil {
		return nil, err
	}
	r := &Request{Device: body}
	if token != nil {
		r.Join = JoinMAC(token, body)
	}
	return Marshal(r)
}

// ParseRequest decodes M1 and its body.
func ParseRequest(raw []byte) (*Request, *Device, error) {
	var r Request
	if err := Unmarshal(raw, &r); err != nil {
		return nil, nil, err
	}
	var d Device
	if err := Unmarshal(r.Device, &d); err != nil {
		return nil, nil, err
	}
	return &r, &d, nil
}

// JoinMAC proves knowledge of a join token for one request: HMAC-SHA-256(token, "sealboot/join/v1" || 0 || SHA-256(device)).
func JoinMAC(token, device []byte) []byte {
	sum := sha256.Sum256(device)
	m := hmac.New(sha256.New, token)
	m.Write([]byte("sealboot/join/v1\x00"))
	m.Write(sum[:])
	return m.Sum(nil)
}

// Joins tells whether the request was made with the token, in constant time.
func (r *Request) Joins(token []byte) bool {
	return len(token) > 0 && hmac.Equal(r.Join, JoinMAC(token, r.Device))
}
