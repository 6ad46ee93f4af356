package ocipush

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// Signer signs images with a private key.
type Signer struct {
	key    crypto.Signer
	public cosign.Key
}

// ParseSigner reads a private key in PEM: PKCS #8, or cosign's own form, which
// password opens.
func ParseSigner(b, password []byte) (*Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("private key: not PEM")
	}
	der := block.Bytes
	var err error
	switch block.Type {
	case "PRIVATE KEY":
	case "ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY":
		if der, err = openBox(block.Bytes, password); err != nil {
			return nil, fmt.Errorf("private key: %w", err)
		}
		defer clear(der)
	default:
		return nil, fmt.Errorf("private key: PEM type %q, want PRIVATE KEY or cosign's", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("private key: not in PKCS #8 form")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key: a %T can not sign", key)
	}
	pkix, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	public, err := cosign.ParseKey(pkix)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &Signer{signer, public}, nil
}

// openBox opens cosign's encryption: scrypt and NaCl's secretbox.
func openBox(b, password []byte) ([]byte, error) {
	var box struct {
		KDF struct {
			Name   string
			Params struct{ N, R, P int }
			Salt   []byte
		}
		Cipher struct {
			Name  string
			Nonce []byte
		}
		Ciphertext []byte
	}
	if err := json.Unmarshal(b, &box); err != nil {
		return nil, err
	}
	p := box.KDF.Params
	if box.KDF.Name != "scrypt" || box.Cipher.Name != "nacl/secretbox" || len(box.Cipher.Nonce) != 24 || p.N > 1<<20 || p.R > 16 || p.P > 16 {
		return nil, errors.New("unknown encryption")
	}
	raw, err := scrypt.Key(password, box.KDF.Salt, p.N, p.R, p.P, 32)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	plain, ok := secretbox.Open(nil, box.Ciphertext, (*[24]byte)(box.Cipher.Nonce), (*[32]byte)(raw))
	if !ok {
		return nil, errors.New("wrong password")
	}
	return plain, nil
}

// KeyID is the ID of the public key.
func (s *Signer) KeyID() string { return s.public.ID() }

func (s *Signer) sign(message []byte) ([]byte, error) {
	hash := crypto.SHA256
	switch pub := s.key.Public().(type) {
	case ed25519.PublicKey:
		return s.key.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey:
		hash = cosign.HashOf(pub.Curve)
	}
	h := hash.New()
	h.Write(message)
	return s.key.Sign(rand.Reader, h.Sum(nil), hash)
}

// SignClassic adds a signature in cosign's classic form. reference is the
// name that the payload gives to the image, which a [cosign.Policy] can demand.
func (s *Signer) SignClassic(ctx context.Context, dst oras.Target, image ocispec.Descriptor, reference string) error {
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`,
		reference, image.Digest)
	sig, err := s.sign(payload)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	tag := "sha256-" + image.Digest.Encoded() + ".sig"
	m, err := signatures(ctx, dst, tag)
	if err != nil {
		return fmt.Errorf("reading the signatures there are: %w", err)
	}
	d, err := pushBytes(ctx, dst, cosign.SimpleSigningType, payload)
	if err != nil {
		return fmt.Errorf("pushing a signature: %w", err)
	}
	d.Annotations = map[string]string{cosign.SignatureAnnotation: base64.StdEncoding.EncodeToString(sig)}
	m.Layers = append(m.Layers, d)
	config, err := json.Marshal(ocispec.Image{RootFS: rootFS(m.Layers)})
	if err != nil {
		return err
	}
	if m.Config, err = pushBytes(ctx, dst, ocispec.MediaTypeImageConfig, config); err != nil {
		return fmt.Errorf("pushing a signature: %w", err)
	}
	desc, err := pushManifest(ctx, dst, m)
	if err != nil {
		return err
	}
	if err := dst.Tag(ctx, desc, tag); err != nil {
		return fmt.Errorf("tagging %s: %w", tag, err)
	}
	return nil
}

func rootFS(layers []ocispec.Descriptor) ocispec.RootFS {
	fs := ocispec.RootFS{Type: "layers"}
	for _, l := range layers {
		fs.DiffIDs = append(fs.DiffIDs, l.Digest)
	}
	return fs
}

// signatures returns the manifest that tag names, or an empty one.
func signatures(ctx context.Context, src oras.Target, tag string) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	d, err := src.Resolve(ctx, tag)
	if errors.Is(err, errdef.ErrNotFound) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if d.Size > oci.MaxManifest {
		return m, fmt.Errorf("%w: %d bytes", oci.ErrManifest, d.Size)
	}
	raw, err := content.FetchAll(ctx, src, d)
	if err != nil {
		return m, err
	}
	return oci.ParseManifest(d.MediaType, raw)
}

// SignBundle attaches a signature as a Sigstore bundle, cosign's newer form.
// reference is the name that the statement gives to the image, which cosign
// leaves out; empty leaves it out here too.
func (s *Signer) SignBundle(ctx context.Context, dst content.Storage, image ocispec.Descriptor, reference string) error {
	bundle, err := s.bundle(image, reference)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	d, err := pushBytes(ctx, dst, cosign.BundleType, bundle)
	if err != nil {
		return fmt.Errorf("pushing a signature: %w", err)
	}
	_, err = pushManifest(ctx, dst, ocispec.Manifest{
		ArtifactType: cosign.BundleType,
		Layers:       []ocispec.Descriptor{d},
		Subject:      &ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": cosign.PredicateType,
		},
	})
	return err
}

func (s *Signer) bundle(image ocispec.Descriptor, reference string) ([]byte, error) {
	type object = map[string]any
	const payloadType = "application/vnd.in-toto+json"
	subject := object{"digest": object{"sha256": image.Digest.Encoded()}}
	if reference != "" {
		subject["name"] = reference
	}
	statement, err := json.Marshal(object{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []object{subject},
		"predicateType": cosign.PredicateType,
		"predicate":     object{},
	})
	if err != nil {
		return nil, err
	}
	sig, err := s.sign(cosign.PAE(payloadType, statement))
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // "+json" is to be read by people
	err = enc.Encode(object{
		"mediaType":            cosign.BundleType,
		"verificationMaterial": object{"publicKey": object{"hint": s.KeyID()}},
		"dsseEnvelope": object{
			"payload":     statement,
			"payloadType": payloadType,
			"signatures":  []object{{"sig": sig}},
		},
	})
	return bytes.TrimSpace(buf.Bytes()), err
}
