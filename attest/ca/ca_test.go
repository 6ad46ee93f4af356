package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func newCA(t *testing.T, site string) *CA {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c, text, err := Create(site, key, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Open(site, text, key, time.Now); err != nil || string(again.PEM()) != string(text) {
		t.Fatalf("Open: %v", err)
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(site, text, other, time.Now); err == nil {
		t.Error("Open took a key that is not the certificate's")
	}
	return c
}

func TestAgentCertificate(t *testing.T) {
	c := newCA(t, "shop-17")
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("ab", 32)
	text, err := c.Agent(&key.PublicKey, id, "d1")
	if err != nil {
		t.Fatal(err)
	}
	cert, got, err := ParseAgentPEM(text)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{Site: "shop-17", Device: id, Decision: "d1", NotAfter: now.Add(AgentLife)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if u := cert.URIs[0].String(); u != "spiffe://shop-17/device/"+id {
		t.Errorf("URI %s", u)
	}
	verify := func(at time.Time, use x509.ExtKeyUsage, c *CA) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: c.Pool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	if err := verify(now, x509.ExtKeyUsageClientAuth, c); err != nil {
		t.Errorf("valid certificate: %v", err)
	}
	for name, err := range map[string]error{
		"as a server":  verify(now, x509.ExtKeyUsageServerAuth, c),
		"after a day":  verify(now.Add(AgentLife+time.Minute), x509.ExtKeyUsageClientAuth, c),
		"another site": verify(now, x509.ExtKeyUsageClientAuth, newCA(t, "shop-17")),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := c.VerifyAgent(cert); err != nil {
		t.Error(err)
	}
	if _, err := newCA(t, "shop-18").VerifyAgent(cert); !errors.Is(err, ErrNotAgent) {
		t.Errorf("at another site: %v, want ErrNotAgent", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Agent(&p384.PublicKey, id, "d1"); err == nil {
		t.Error("certified a P-384 agent key")
	}
}

func TestServerCertificateIsNoAgents(t *testing.T) {
	c := newCA(t, "site")
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Server(&key.PublicKey, []string{"attestd.example", "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"attestd.example", "192.0.2.1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseAgent(cert); !errors.Is(err, ErrNotAgent) {
		t.Errorf("ParseAgent: %v, want ErrNotAgent", err)
	}
}

// TestParseAgentRefuses changes one thing in what makes an agent certificate.
func TestParseAgentRefuses(t *testing.T) {
	id := strings.Repeat("ab", 32)
	decision := func(der ...byte) []pkix.Extension { return []pkix.Extension{{Id: OIDDecision, Value: der}} }
	good := decision(asn1.TagUTF8String, 2, 'd', '1')
	for _, c := range []struct {
		want, uri string
		ext       []pkix.Extension
	}{
		{"", "spiffe://site/device/" + id, good},
		{"no device URI", "https://site/device/" + id, good},
		{"not spiffe://SITE", "spiffe://site/device/ab", good},
		{"not spiffe://SITE", "spiffe://site/devices/" + id, good},
		{"not spiffe://SITE", "spiffe:///device/" + id, good},
		{"not spiffe://SITE", "spiffe://site/device/" + id + "?x=1", good},
		{"not spiffe://SITE", "spiffe://site/device/" + id + "#x", good},
		{"not spiffe://SITE", "spiffe://u@site/device/" + id, good},
		{"names no decision", "spiffe://site/device/" + id, nil},
		{"names no decision", "spiffe://site/device/" + id, decision(asn1.TagUTF8String, 0)},
		{"cannot be read", "spiffe://site/device/" + id, decision(asn1.TagInteger, 1, 7)},
		{"cannot be read", "spiffe://site/device/" + id, decision(asn1.TagUTF8String, 1, 'd', '1')},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseAgent(&x509.Certificate{URIs: []*url.URL{u}, Extensions: c.ext})
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", c.uri, err)
		}
		if c.want != "" && (!errors.Is(err, ErrNotAgent) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %v with %q", c.uri, err, ErrNotAgent, c.want)
		}
	}
	u := &url.URL{Scheme: "spiffe", Host: "site", Path: "/device/" + id}
	if _, err := ParseAgent(&x509.Certificate{URIs: []*url.URL{u, u}, Extensions: good}); !errors.Is(err, ErrNotAgent) {
		t.Errorf("two URIs: %v, want %v", err, ErrNotAgent)
	}
}

func TestKeyFile(t *testing.T) {
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := MarshalKey(k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseKey(text); err != nil || !got.Equal(k) {
		t.Errorf("ParseKey: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := MarshalKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ed)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"garbage":      []byte("x"),
		"other type":   []byte(strings.ReplaceAll(string(text), "PRIVATE KEY", "PUBLIC KEY")),
		"P-384":        large,
		"another kind": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%s was read as a key", name)
		}
	}
	if _, err := Parse(text); err == nil {
		t.Error("a key was read as a certificate")
	}
}
