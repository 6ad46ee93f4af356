// Package enrol turns what is known of a machine's TPM into an entry of the device registry.
//
// A device is its endorsement key. What is enrolled are hashes of public areas; a certificate of the TPM's
// maker says in addition that the key lives in a genuine TPM. Which of the two vouches for a device is
// kept with it as its tier.
package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// maxLabel is the longest name of a device, in bytes: it is a cell of tables, on terminals too.
const maxLabel = 120

// The tiers of a device: who vouches for its endorsement key.
const (
	TierCertificate = "certificate" // the TPM's maker
	TierHash        = "hash"        // the operator who enrolled it
)

// ErrEndorsement says that no trusted maker vouches for a key and the operator did not say to do without.
var ErrEndorsement = errors.New("no trusted certificate for the endorsement key")

// Source is what is known of a machine. Any field may be empty, but not all.
type Source struct {
	Hashes       []string // hex SHA-256 of TPMT_PUBLIC; the first is the key that the device will use
	Named        []string // of further keys, by the machine's own word: taken only with a trusted certificate
	Publics      [][]byte // TPMT_PUBLIC or TPM2B_PUBLIC
	Certificates [][]byte // EK certificates: DER, with padding or not, or PEM
	Label        string   // the operator's name for it
	Roots        *x509.CertPool
	HashSuffices bool // enrol without a trusted certificate
	// Floor orders the device to write its rollback floor in its first boot, with this image version; nil
	// means that it has one, or needs none.
	Floor *int64
}

// Device makes the registry's entry and says what it rests on.
func (s Source) Device(now time.Time) (store.Device, error) {
	d := store.Device{Label: s.Label, State: store.Enrolled, Tier: TierHash, RepairFloor: s.Floor}
	if err := CheckLabel(s.Label); err != nil {
		return d, err
	}
	for _, h := range slices.Concat(s.Hashes, s.Named) {
		if raw, err := hex.DecodeString(h); err != nil || len(raw) != 32 || strings.ToLower(h) != h {
			return d, fmt.Errorf("hash %q: want 64 characters of lower-case hex", h)
		}
	}
	d.EKs = append(d.EKs, s.Hashes...)
	for _, raw := range s.Publics {
		id, err := publicID(raw)
		if err != nil {
			return d, err
		}
		d.EKs = append(d.EKs, id)
	}
	known := len(d.EKs) > 0
	var endorsed []string
	var problems error
	for _, raw := range s.Certificates {
		ids, err := s.certified(raw, now)
		if err != nil {
			problems = errors.Join(problems, err)
			continue
		}
		// A certificate next to other facts must be about one of them.
		if known && !slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(d.EKs, id) || slices.Contains(s.Named, id) }) {
			problems = errors.Join(problems, fmt.Errorf("%w: it is for another key", verify.ErrOtherKey))
			continue
		}
		if !known {
			d.EKs = append(d.EKs, ids...)
		}
		endorsed = append(endorsed, ids...)
	}
	switch {
	case len(d.EKs) > 0 && slices.Contains(endorsed, d.EKs[0]):
		// Evidence is the machine's word: next to the key of its TPM it may name one that was made in software. Only
		// those that a maker vouches for are taken.
		d.Tier = TierCertificate
		d.EKs = slices.DeleteFunc(append(d.EKs, s.Named...), func(id string) bool { return !slices.Contains(endorsed, id) })
	case !s.HashSuffices:
		return d, errors.Join(ErrEndorsement, problems)
	}
	if len(d.EKs) == 0 {
		return d, errors.Join(errors.New("nothing to enrol: give a hash, a public key or a certificate"), problems)
	}
	slices.Sort(d.EKs[1:])
	d.ID, d.EKs = d.EKs[0], unique(d.EKs)
	return d, nil
}

// CheckLabel refuses names of devices that do not fit in a table, or that change how it is read.
func CheckLabel(label string) error {
	if unfit := func(r rune) bool { return !unicode.IsPrint(r) }; len(label) > maxLabel || strings.ContainsFunc(label, unfit) {
		return fmt.Errorf("label %.40q: want at most %d bytes of printable text", label, maxLabel)
	}
	return nil
}

func unique(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// publicID takes both forms that tools write.
func publicID(raw []byte) (string, error) {
	if len(raw) > 2 && int(raw[0])<<8|int(raw[1]) == len(raw)-2 {
		raw = raw[2:]
	}
	if _, _, err := keys.ParsePublic(raw); err != nil {
		return "", fmt.Errorf("public area of the endorsement key: want TPM2B_PUBLIC or TPMT_PUBLIC in binary, as tpm2_readpublic writes it: %w", err)
	}
	return wire.KeyID(raw), nil
}

// certified checks a certificate and returns the hashes that its key has under the templates it may have
// been made from. Only one of them exists in the TPM, and only that one can ever be proven.
func (s Source) certified(raw []byte, now time.Time) ([]string, error) {
	if b, _ := pem.Decode(raw); b != nil {
		raw = b.Bytes
	}
	cert, err := verify.ParseEKCertificate(raw)
	if err != nil {
		return nil, err
	}
	if _, err := verify.EKCertificate(raw, cert.PublicKey, s.Roots, s.Roots, now); err != nil {
		return nil, err
	}
	var ids []string
	for _, kind := range keys.EKs() {
		if pub, ok := fromTemplate(kind.Template, cert.PublicKey); ok {
			ids = append(ids, wire.KeyID(tpm2.Marshal(pub)))
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: no template for a %T", verify.ErrCertificate, cert.PublicKey)
	}
	return ids, nil
}

// fromTemplate puts a key into a template, if it is of its kind.
func fromTemplate(t tpm2.TPMTPublic, key crypto.PublicKey) (tpm2.TPMTPublic, bool) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if t.Type != tpm2.TPMAlgRSA || k.Size() != 256 || k.E != 65537 {
			return t, false
		}
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.FillBytes(make([]byte, 256))})
		return t, true
	case *ecdsa.PublicKey:
		parms, err := t.Parameters.ECCDetail()
		if t.Type != tpm2.TPMAlgECC || err != nil {
			return t, false
		}
		curve, err := parms.CurveID.Curve()
		if err != nil || curve != k.Curve {
			return t, false
		}
		point, err := k.Bytes()
		if err != nil {
			return t, false
		}
		half := len(point) / 2
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+half]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+half:]},
		})
		return t, true
	}
	return t, false
}
