package sign

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // key generation
	}
	return v
}

func keys() map[string]crypto.Signer {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"ed25519": must(ed, err),
		"p256":    must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		"p384":    must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		"rsa":     must(rsa.GenerateKey(rand.Reader, 2048)),
	}
}

// TestRoundTrip: a key goes through PEM, and go-tuf verifies what it signs.
func TestRoundTrip(t *testing.T) {
	for name, key := range keys() {
		der := must(x509.MarshalPKCS8PrivateKey(key))
		parsed, err := ParsePrivate(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pub, err := ParsePublic(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tufKey, id, err := PublicKey(pub)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		root := metadata.Root(time.Now())
		if err := root.Signed.AddKey(tufKey, "root"); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second signature replaces the first
			if err := Metadata(root, id, parsed); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if len(root.Signatures) != 1 {
			t.Errorf("%s: %d signatures", name, len(root.Signatures))
		}
		if err := root.VerifyDelegate("root", root); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if ids := IDs(root.Signed.Keys, pub); len(ids) != 1 || ids[0] != id {
			t.Errorf("%s: identifiers %v, want %s", name, ids, id)
		}
	}
}

func TestUnusableKeys(t *testing.T) {
	weak := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	short := must(rsa.GenerateKey(rand.Reader, 1024))
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"text":           []byte("-----BEGIN"),
		"of type":        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
		"damaged":        pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"curve":          pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(weak))}),
		"short RSA":      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(short))}),
		"no signatures":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(must(ecdh.X25519().GenerateKey(rand.Reader))))}),
		"damaged public": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}}),
	} {
		if _, err := ParsePrivate(data); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ParsePublic(data); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublicKeyRefuses(t *testing.T) {
	for name, key := range map[string]crypto.PublicKey{
		"RSA of 1024 bits": &must(rsa.GenerateKey(rand.Reader, 1024)).PublicKey,
		"P-521":            &must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)).PublicKey,
		"no key":           "text",
	} {
		if _, _, err := PublicKey(key); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, want %v", name, err, ErrKey)
		}
	}
}

func TestGenerate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys", "root.pem")
	if err := Generate(file); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	if _, err := ParsePrivate(must(os.ReadFile(file))); err != nil {
		t.Fatal(err)
	}
	if err := Generate(file); !errors.Is(err, os.ErrExist) {
		t.Fatalf("over an existing key: %v", err)
	}
}
