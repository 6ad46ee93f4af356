package cosign_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// ecdsaKey makes a key of the test's own, to sign what cosign never would.
func ecdsaKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pkix(t *testing.T, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// statement is what a bundle signs, of the image in testdata.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
}

type subject struct {
	Digest map[string]string `json:"digest"`
	Name   string            `json:"name,omitempty"`
}

// forged is a bundle by somebody who holds a pinned key.
type forged struct {
	mediaType, payloadType string
	statement              statement
	signatures             int
}

func (f forged) bundle(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	payload, err := json.Marshal(f.statement)
	if err != nil {
		t.Fatal(err)
	}
	type signature struct {
		Sig []byte `json:"sig"`
	}
	sigs := []signature{}
	for range f.signatures {
		sum := sha256.Sum256(cosign.PAE(f.payloadType, payload))
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, signature{sig})
	}
	b, err := json.Marshal(map[string]any{"mediaType": f.mediaType, "dsseEnvelope": map[string]any{
		"payload": payload, "payloadType": f.payloadType, "signatures": sigs,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBundleRefused has bundles that are signed by a pinned key and still admit nothing.
func TestBundleRefused(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	pinned, err := cosign.ParseKey(pkix(t, &key.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	good := func() forged {
		return forged{cosign.BundleType, "application/vnd.in-toto+json", statement{
			Type: "https://in-toto.io/Statement/v1", PredicateType: cosign.PredicateType,
			Subject: []subject{{Digest: map[string]string{"sha256": image(t).Encoded()}}},
		}, 1}
	}
	for want, change := range map[string]func(*forged){
		"":                         func(*forged) {},
		"without DSSE envelope":    func(f *forged) { f.mediaType = "application/json" },
		"payload type":             func(f *forged) { f.payloadType = "text/plain" },
		"17 signatures":            func(f *forged) { f.signatures = 17 },
		"none by a pinned key":     func(f *forged) { f.signatures = 0 },
		`is a "slsa"`:              func(f *forged) { f.statement.Type = "slsa" },
		`with a "sbom"`:            func(f *forged) { f.statement.PredicateType = "sbom" },
		"is about sha256:0000":     func(f *forged) { f.statement.Subject[0].Digest["sha256"] = strings.Repeat("0", 64) },
		"statement is about":       func(f *forged) { f.statement.Subject = nil },
		"the statement is about s": func(f *forged) { f.statement.Subject[0].Digest = map[string]string{"sha512": image(t).Encoded()} },
	} {
		f := good()
		change(&f)
		found, err := cosign.VerifyBundle(f.bundle(t, key), cosign.Demand{Image: image(t)}, []cosign.Key{pinned})
		if want == "" {
			if err != nil || len(found) != 1 {
				t.Errorf("a good bundle: %v, %v", found, err)
			}
		} else if !errors.Is(err, cosign.ErrSignature) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %v with %q", err, cosign.ErrSignature, want)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := pkix(t, &ecdsaKey(t, elliptic.P256()).PublicKey)
	if _, err := cosign.ParseKey(block("PUBLIC KEY", good)); err != nil {
		t.Fatal(err)
	}
	for want, b := range map[string][]byte{
		"PEM type":         block("CERTIFICATE", good),
		"ECDSA P-224":      pkix(t, &ecdsaKey(t, elliptic.P224()).PublicKey),
		"RSA of 1024 bits": pkix(t, &small.PublicKey),
		"ecdh.PublicKey":   pkix(t, exchange.PublicKey()),
		"asn1":             good[1:],
	} {
		if _, err := cosign.ParseKey(b); !errors.Is(err, cosign.ErrKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %v with %q", err, cosign.ErrKey, want)
		}
	}
}

// TestReferrersOfTheWrongShape: what does not hold one bundle is passed over.
func TestReferrersOfTheWrongShape(t *testing.T) {
	good := file(t, "ecdsa.bundle.json")
	for name, layers := range map[string]func(*repo) []ocispec.Descriptor{
		"two layers": func(r *repo) []ocispec.Descriptor {
			l := r.layer(cosign.BundleType, good, nil)
			return []ocispec.Descriptor{l, l}
		},
		"another type": func(r *repo) []ocispec.Descriptor {
			return []ocispec.Descriptor{r.layer("application/json", good, nil)}
		},
	} {
		r := signed(t, nil, nil)
		r.put("", layers(r)...)
		_, err := cosign.Policy{Keys: keys(t, "ecdsa")}.Admit(t.Context(), r, ocispec.Descriptor{Digest: image(t)})
		if !errors.Is(err, oci.ErrNotAdmitted) || !strings.Contains(fmt.Sprint(err), "does not hold one bundle") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIdentity: a key may sign more than one image, and a site may want one.
func TestIdentity(t *testing.T) {
	const os = "registry.example:5000/site/os"
	key := ecdsaKey(t, elliptic.P256())
	pinned, err := cosign.ParseKey(pkix(t, &key.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		named, demanded string
		ok              bool
	}{
		{os, "", true},
		{"", "", true},
		{os, os, true},
		{os + ":1", os, true},
		{os + "@" + image(t).String(), os, true},
		{os + ":1@" + image(t).String(), os, true},
		{"", os, false},
		{"registry.example:5000/site/other", os, false},
		{os + "/other", os, false},
		{os + "x", os, false},
		{"other/" + os, os, false},
		{"Registry.example:5000/site/os", os, false},
		{"registry.example/site/os", os, false},
		{"registry.example", "registry.example:5000", false},
		{os + " ", os, false},
	} {
		payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"}}`, tt.named, image(t))
		sum := sha256.Sum256(payload)
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		f := forged{cosign.BundleType, "application/vnd.in-toto+json", statement{
			Type: "https://in-toto.io/Statement/v1", PredicateType: cosign.PredicateType,
			Subject: []subject{
				{map[string]string{"sha256": strings.Repeat("0", 64)}, tt.demanded}, // of another image
				{map[string]string{"sha256": image(t).Encoded()}, tt.named},
			},
		}, 1}
		classic, bundle := signed(t, nil, nil), signed(t, nil, nil)
		classic.put("sha256-"+image(t).Encoded()+".sig", classic.layer(cosign.SimpleSigningType, payload,
			map[string]string{cosign.SignatureAnnotation: base64.StdEncoding.EncodeToString(sig)}))
		bundle.put("", bundle.layer(cosign.BundleType, f.bundle(t, key), nil))
		for form, r := range map[string]*repo{"classic": classic, "bundle": bundle} {
			p := cosign.Policy{Keys: []cosign.Key{pinned}, Identity: tt.demanded}
			_, err := p.Admit(t.Context(), r, ocispec.Descriptor{Digest: image(t)})
			if tt.ok && err != nil {
				t.Errorf("%s that names %q, demanded %q: %v", form, tt.named, tt.demanded, err)
			}
			if !tt.ok && (!errors.Is(err, oci.ErrNotAdmitted) || !strings.Contains(err.Error(), "is demanded")) {
				t.Errorf("%s that names %q, demanded %q: %v", form, tt.named, tt.demanded, err)
			}
		}
	}
}
