package verify

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	// ErrNoCertificate means that the device sent no EK certificate, or that the site has no roots to check it with.
	ErrNoCertificate = errors.New("no EK certificate")
	// ErrCertificate means that the EK certificate is not worth anything.
	ErrCertificate = errors.New("EK certificate is not acceptable")
	// ErrOtherKey means that the EK certificate is for another key. No maker's mistake explains that.
	ErrOtherKey = errors.New("EK certificate is for another key")
)

var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// EKCertificate checks an EK certificate as read from a TPM's NV: that it is for this key, meant for an EK, valid now
// and issued under one of the roots. It copes with what makers do: padding behind the certificate, and a critical
// subject alternative name without any name that x509 knows.
func EKCertificate(nv []byte, ek crypto.PublicKey, roots, intermediates *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	cert, err := ParseEKCertificate(nv)
	if err != nil {
		return nil, err
	}
	if k, ok := ek.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(cert.PublicKey) {
		return nil, ErrOtherKey
	}
	if roots == nil {
		return nil, fmt.Errorf("%w: this site has no roots of TPM makers", ErrNoCertificate)
	}
	if cert.BasicConstraintsValid && cert.IsCA {
		return nil, fmt.Errorf("%w: it is a CA's", ErrCertificate)
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return nil, fmt.Errorf("%w: its extended key usage is not tcg-kp-EKCertificate (2.23.133.8.1)", ErrCertificate)
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checked above: x509 does not know the TCG's
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return cert, nil
}

// ParseEKCertificate reads the certificate at the beginning of an NV index.
func ParseEKCertificate(nv []byte) (*x509.Certificate, error) {
	if len(nv) == 0 {
		return nil, ErrNoCertificate
	}
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(nv, &outer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	cert, err := x509.ParseCertificate(outer.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return cert, nil
}
