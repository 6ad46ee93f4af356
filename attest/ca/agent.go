package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Identity is what an agent certificate says.
type Identity struct {
	Site     string
	Device   string // hex SHA-256 of the endorsement key's public area
	Decision string // the attestation that admitted it
	NotAfter time.Time
}

// ParseAgent reads an agent certificate's identity. It does not verify the certificate: TLS, or who
// delivered it, did.
func ParseAgent(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" {
		return Identity{}, fmt.Errorf("%w: it has no device URI", ErrNotAgent)
	}
	u := cert.URIs[0]
	id, ok := strings.CutPrefix(u.Path, "/device/")
	if !ok || len(id) != 64 || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return Identity{}, fmt.Errorf("%w: its URI is not spiffe://SITE/device/ID", ErrNotAgent)
	}
	out := Identity{Site: u.Host, Device: id, NotAfter: cert.NotAfter}
	for _, e := range cert.Extensions {
		if e.Id.Equal(OIDDecision) {
			if rest, err := asn1.UnmarshalWithParams(e.Value, &out.Decision, "utf8"); err != nil || len(rest) > 0 {
				return Identity{}, fmt.Errorf("%w: its decision cannot be read", ErrNotAgent)
			}
		}
	}
	if out.Decision == "" {
		return Identity{}, fmt.Errorf("%w: it names no decision", ErrNotAgent)
	}
	return out, nil
}

// ParseAgentPEM is ParseAgent for the file of the handover.
func ParseAgentPEM(text []byte) (*x509.Certificate, Identity, error) {
	cert, err := Parse(text)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("read agent certificate: %w", err)
	}
	id, err := ParseAgent(cert)
	return cert, id, err
}

// VerifyAgent tells which device of this site a certificate that TLS verified belongs to.
func (c *CA) VerifyAgent(cert *x509.Certificate) (Identity, error) {
	id, err := ParseAgent(cert)
	if err != nil {
		return Identity{}, err
	}
	if id.Site != c.site {
		return Identity{}, fmt.Errorf("%w: it is of site %q", ErrNotAgent, id.Site)
	}
	return id, nil
}

// MarshalKey encodes a key as PKCS #8 PEM.
func MarshalKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey is the inverse of MarshalKey.
func ParseKey(text []byte) (*ecdsa.PrivateKey, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, errors.New("no PKCS #8 private key in PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key is %T, want ECDSA P-256", k)
	}
	return ec, nil
}
