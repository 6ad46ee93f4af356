// Package ca is a site's certificate authority. It signs two kinds of certificates: attestd's own TLS
// certificate, and short-lived client certificates for agent keys that live in a device's TPM.
//
// An agent certificate says which device holds the key (a URI in the SPIFFE form
// spiffe://SITE/device/ID) and which attestation admitted it (an extension with the decision's ID). It
// proves nothing by itself: the key can be used only in an approved OS, after the cap, because the TPM
// enforces that.
//
// All keys are crypto.Signer, so that they can live in a token.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"
)

// OIDDecision marks the extension that holds the decision's ID, a UTF8String. The arc is derived from a
// UUID (ITU-T X.667), so it needs no registration and collides with nothing.
var OIDDecision = asn1.ObjectIdentifier{2, 25, 1487325123, 1}

// ErrNotAgent says that a certificate is not an agent's of this site.
var ErrNotAgent = errors.New("not an agent certificate of this site")

// ErrClock says that this machine's clock is outside the life of the authority, and so wrong.
var ErrClock = errors.New("this machine's clock is wrong")

const (
	caLife = 20 * 365 * 24 * time.Hour
	// backdate is how far before its making a certificate begins to be valid: other clocks lag.
	backdate = 5 * time.Minute
)

// Lives of certificates. Agents renew theirs at half of it, attestd its own.
const (
	AgentLife  = 24 * time.Hour
	ServerLife = 30 * 24 * time.Hour
)

// CA issues certificates. It is safe for concurrent use if its signer is.
type CA struct {
	site   string
	cert   *x509.Certificate
	signer crypto.Signer
	now    func() time.Time
}

// NewKey makes a P-256 key in memory.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Create makes a new self-signed authority for a site and returns it with its certificate as PEM.
func Create(site string, signer crypto.Signer, now func() time.Time) (*CA, []byte, error) {
	t := now()
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: site + " site CA"},
		NotBefore: t.Add(-backdate), NotAfter: t.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := sign(tmpl, tmpl, signer.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("create the CA of site %q: %w", site, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c, err := Open(site, text, signer, now)
	return c, text, err
}

// Open loads an authority from its certificate and key, which must belong together. A clock that lies outside the
// certificate's life is [ErrClock]: what it would sign, attestd's time among it, would be wrong.
func Open(site string, certPEM []byte, signer crypto.Signer, now func() time.Time) (*CA, error) {
	cert, err := Parse(certPEM)
	if err != nil {
		return nil, fmt.Errorf("open the CA of site %q: %w", site, err)
	}
	pub, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("open the CA of site %q: its key does not belong to its certificate", site)
	}
	if t := now(); t.Before(cert.NotBefore) || t.After(cert.NotAfter) {
		return nil, fmt.Errorf("open the CA of site %q: %w: it says %s, the CA is valid from %s to %s", site, ErrClock,
			t.UTC().Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return &CA{site: site, cert: cert, signer: signer, now: now}, nil
}

// Pool is the pool that trusts this authority and nothing else.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// PEM is the authority's certificate.
func (c *CA) PEM() []byte { return encode(c.cert.Raw) }

// Server issues a TLS certificate for names: DNS names or IP addresses.
func (c *CA) Server(pub crypto.PublicKey, names []string) ([]byte, error) {
	t := c.now()
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: c.site + " attestd"},
		NotBefore: t.Add(-backdate), NotAfter: t.Add(ServerLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := sign(tmpl, c.cert, pub, c.signer)
	if err != nil {
		return nil, fmt.Errorf("issue a TLS certificate for %s: %w", strings.Join(names, ", "), err)
	}
	return encode(der), nil
}

// Agent issues the certificate of one device's agent key after the given decision.
func (c *CA) Agent(pub *ecdsa.PublicKey, deviceID, decision string) ([]byte, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, errors.New("issue an agent certificate: the key is not a P-256 key")
	}
	value, err := asn1.MarshalWithParams(decision, "utf8")
	if err != nil {
		return nil, fmt.Errorf("issue an agent certificate: %w", err)
	}
	t := c.now()
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: deviceID[:min(16, len(deviceID))]},
		NotBefore: t.Add(-backdate), NotAfter: t.Add(AgentLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:            []*url.URL{{Scheme: "spiffe", Host: c.site, Path: "/device/" + deviceID}},
		ExtraExtensions: []pkix.Extension{{Id: OIDDecision, Value: value}},
	}
	der, err := sign(tmpl, c.cert, pub, c.signer)
	if err != nil {
		return nil, fmt.Errorf("issue an agent certificate for device %s: %w", deviceID, err)
	}
	return encode(der), nil
}

// sign fills in what all certificates have: a random serial number and key identifiers.
func sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial.Add(serial, big.NewInt(1))
	if tmpl.IsCA {
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, err
		}
		id := sha256.Sum256(der)
		tmpl.SubjectKeyId = id[:20]
	}
	return x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Parse reads one certificate from PEM.
func Parse(text []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(b.Bytes)
}
