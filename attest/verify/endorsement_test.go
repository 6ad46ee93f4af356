package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/wire"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var now = time.Unix(1_800_000_000, 0)

func issue(t testing.TB, template, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestEKCertificate(t *testing.T) {
	rootKey, ek, other := newKey(t), newKey(t), newKey(t)
	rootTemplate := &x509.Certificate{Subject: pkix.Name{CommonName: "TPM maker"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := issue(t, rootTemplate, rootTemplate, &rootKey.PublicKey, rootKey)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	usage := []asn1.ObjectIdentifier{oidEKCertificate}
	// A directory name in the alternative name, critical because the subject is empty: what the profile demands.
	name := pkix.Extension{Id: oidSubjectAltName, Critical: true, Value: []byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00}}
	unknown := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}
	leaf := func(c x509.Certificate) []byte { return issue(t, &c, root, &ek.PublicKey, rootKey).Raw }
	good := leaf(x509.Certificate{UnknownExtKeyUsage: usage, ExtraExtensions: []pkix.Extension{name}})
	for n, c := range map[string]struct {
		nv    []byte
		key   *ecdsa.PublicKey
		roots *x509.CertPool
		want  error
	}{
		"good":                  {good, &ek.PublicKey, roots, nil},
		"padded":                {append(append([]byte{}, good...), make([]byte, 300)...), &ek.PublicKey, roots, nil},
		"padded with 0xff":      {append(append([]byte{}, good...), 0xff, 0xff), &ek.PublicKey, roots, nil},
		"none":                  {nil, &ek.PublicKey, roots, ErrNoCertificate},
		"no roots":              {good, &ek.PublicKey, nil, ErrNoCertificate},
		"other roots":           {good, &ek.PublicKey, x509.NewCertPool(), ErrCertificate},
		"other key":             {good, &other.PublicKey, roots, ErrOtherKey},
		"cut":                   {good[:100], &ek.PublicKey, roots, ErrCertificate},
		"garbage":               {[]byte{0x30, 3, 1, 2, 3}, &ek.PublicKey, roots, ErrCertificate},
		"no usage":              {leaf(x509.Certificate{}), &ek.PublicKey, roots, ErrCertificate},
		"usage of an AK":        {leaf(x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}}), &ek.PublicKey, roots, ErrCertificate},
		"usage of a TLS server": {leaf(x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), &ek.PublicKey, roots, ErrCertificate},
		"expired": {leaf(x509.Certificate{UnknownExtKeyUsage: usage, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}),
			&ek.PublicKey, roots, ErrCertificate},
		"unknown critical extension": {leaf(x509.Certificate{UnknownExtKeyUsage: usage, ExtraExtensions: []pkix.Extension{unknown}}),
			&ek.PublicKey, roots, ErrCertificate},
		"a CA": {leaf(x509.Certificate{UnknownExtKeyUsage: usage, IsCA: true, BasicConstraintsValid: true}), &ek.PublicKey, roots, ErrCertificate},
	} {
		t.Run(n, func(t *testing.T) {
			_, err := EKCertificate(c.nv, c.key, c.roots, nil, now)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("EKCertificate() = %v, want %v", err, c.want)
			}
		})
	}
}

// FuzzJudge: nothing that a device sends makes attestd panic, and nothing but evidence is allowed.
func FuzzJudge(f *testing.F) {
	s := &Site{Name: "s", ReleaseKey: &newKey(f).PublicKey}
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s.Judge(now, raw, func(*Verified) (reasons []wire.Reason) { return nil }).Allowed() {
			t.Error("allowed")
		}
		for _, code := range []wire.Code{"x"} {
			_, _ = parseAttest(raw, 0x8018, code, [32]byte{})
			_ = checkSignature(code, s.ReleaseKey, raw, raw)
		}
	})
}
