package config_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/config"
)

func TestFilesAreBounded(t *testing.T) {
	site := []byte(`{"site":"s","sources":[{"type":"media","ref":"v1","keys":["` + publicKey(t) + `"]}]}`)
	host := []byte(`{"interfaces":[]}`)
	for name, c := range map[string]struct {
		text  []byte
		most  int
		parse func([]byte) error
	}{
		"site": {site, config.MaxSiteSize, func(b []byte) error { _, err := config.ParseSite(b); return err }},
		"host": {host, config.MaxHostSize, func(b []byte) error { _, err := config.ParseHost(b); return err }},
	} {
		padded := append(bytes.Clone(c.text), bytes.Repeat([]byte(" "), c.most-len(c.text))...)
		if err := c.parse(padded); err != nil {
			t.Errorf("%s config of %d bytes: %v", name, len(padded), err)
		}
		if err := c.parse(append(padded, ' ')); err == nil || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("%s config of %d bytes: %v, want that it is too long", name, len(padded)+1, err)
		}
	}
}

func TestKeysAndCertificates(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"P-384": &p384.PublicKey, "Ed25519": ed} {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.PublicKey(der); err == nil {
			t.Errorf("%s: taken for a P-256 key", name)
		}
	}
	good := certificate(t)
	if _, err := config.CertPool(good + good); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"nothing":        "",
		"text behind":    good + "x",
		"another type":   strings.ReplaceAll(good, "CERTIFICATE", "PUBLIC KEY"),
		"no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if _, err := config.CertPool(text); err == nil {
			t.Errorf("%s: taken for certificates", name)
		}
	}
}
