package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// Public is a key whose public area was found to be made from a template.
type Public struct {
	Area tpm2.TPMTPublic
	Key  crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	Name []byte
}

// Matcher recognises the public areas that were made from one template by their bytes: in wire form a public area is
// its template, and then the key. It is made once and used for every device, which go-tpm's reflection is too slow for.
type Matcher struct {
	template tpm2.TPMTPublic
	frame    []byte         // the wire form as far as it is not the key
	curve    elliptic.Curve // nil means RSA-2048
}

// NewMatcher prepares a template of an RSA-2048, P-256 or P-384 key.
func NewMatcher(template tpm2.TPMTPublic) (*Matcher, error) {
	m := &Matcher{template: template, frame: frame(&template)}
	empty := 2 // the size of an RSA modulus
	if template.Type == tpm2.TPMAlgECC {
		empty = 4 // the sizes of two coordinates
		parms, err := template.Parameters.ECCDetail()
		if err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
		if m.curve, err = parms.CurveID.Curve(); err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
	}
	m.frame = m.frame[:len(m.frame)-empty]
	return m, nil
}

// Match reads a public area. It returns nil if it was not made from the template, and an error wrapping [ErrPublic] if
// it was but the key in it is not acceptable.
func (m *Matcher) Match(raw []byte) (*Public, error) {
	rest, ok := bytes.CutPrefix(raw, m.frame)
	if !ok {
		return nil, nil
	}
	p := &Public{Area: m.template}
	var err error
	if m.curve == nil {
		err = p.readRSA(rest)
	} else {
		err = p.readECC(rest, m.curve)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublic, err)
	}
	if err := checkKey(&p.Area, p.Key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublic, err)
	}
	p.Name, err = NameOf(p.Area.NameAlg, raw)
	return p, err
}

func (p *Public) readRSA(raw []byte) error {
	modulus, rest := cutSized(raw, 256)
	if modulus == nil || len(rest) != 0 {
		return errors.New("not a modulus of 256 bytes")
	}
	p.Key = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537} // what the templates' exponent 0 stands for
	p.Area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: modulus})
	return nil
}

// cutSized takes a TPM2B whose content has exactly size bytes, or returns nil.
func cutSized(raw []byte, size int) (content, rest []byte) {
	if len(raw) < 2+size || int(binary.BigEndian.Uint16(raw)) != size {
		return nil, nil
	}
	return raw[2 : 2+size], raw[2+size:]
}

func (p *Public) readECC(raw []byte, curve elliptic.Curve) error {
	size := (curve.Params().BitSize + 7) / 8
	x, rest := cutSized(raw, size)
	y, rest := cutSized(rest, size)
	if x == nil || y == nil || len(rest) != 0 {
		return fmt.Errorf("not two coordinates of %d bytes", size)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
	if err != nil {
		return fmt.Errorf("not a point of %s: %w", curve.Params().Name, err)
	}
	p.Key = key
	p.Area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	return nil
}

// Matchers are those of one site, preferred templates first.
type Matchers struct {
	Release *ecdsa.PublicKey
	EK, AK  []*Matcher
	Agent   []*Matcher // one
}

// NewMatchers prepares the templates of a site with this release key.
func NewMatchers(release *ecdsa.PublicKey) (*Matchers, error) {
	var eks []tpm2.TPMTPublic
	for _, kind := range EKs() {
		eks = append(eks, kind.Template)
	}
	aks, err := AKs(release)
	if err != nil {
		return nil, err
	}
	agent, err := AgentKey(release)
	if err != nil {
		return nil, err
	}
	m := &Matchers{Release: release}
	for _, list := range []struct {
		to   *[]*Matcher
		from []tpm2.TPMTPublic
	}{{&m.EK, eks}, {&m.AK, aks}, {&m.Agent, []tpm2.TPMTPublic{*agent}}} {
		for _, t := range list.from {
			one, err := NewMatcher(t)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, one)
		}
	}
	return m, nil
}

// MatchAny reads a public area made from any of the templates. Errors wrap [ErrPublic] or are [ErrTemplate].
func MatchAny(matchers []*Matcher, raw []byte) (*Public, error) {
	for _, m := range matchers {
		if p, err := m.Match(raw); p != nil || err != nil {
			return p, err
		}
	}
	if _, _, err := ParsePublic(raw); err != nil {
		return nil, err
	}
	return nil, ErrTemplate
}
