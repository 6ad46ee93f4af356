package tuf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/measure/jsonlimit"
)

// file is a metadata file as it was received.
//
// go-tuf encodes what it has parsed again and verifies that. Other tools write
// numbers above 2^53, null, members that are missing where go-tuf has a default:
// all of that comes out changed, and a file that every other client takes would
// be refused here. So the signatures are checked over the bytes that came.
type file[T metadata.Roles] struct {
	Signed T
	*envelope
}

// envelope is what a metadata file is, whatever its role.
type envelope struct {
	signed     json.RawMessage
	payload    []byte // the canonical form of signed, which the signatures are over
	signatures map[string]metadata.HexBytes
}

// parse checks the shape of data, then its content. Nothing is verified yet.
func parse[T metadata.Roles](role string, data []byte, check func(*T) error) (*file[T], error) {
	if _, err := jsonlimit.Usual(len(data)).Count(data); err != nil {
		return nil, fmt.Errorf("tuf: %s: %w: %w", role, ErrMalformed, err)
	}
	if err := scan(data); err != nil {
		return nil, fmt.Errorf("tuf: %s: %w", role, err)
	}
	e, err := open(data)
	f := &file[T]{envelope: e}
	if err == nil {
		err = json.Unmarshal(e.signed, &f.Signed)
		e.signed = nil // megabytes, and parsed now
	}
	if err == nil {
		err = check(&f.Signed)
	}
	if err != nil {
		return nil, fmt.Errorf("tuf: %s: %w: %w", role, ErrMalformed, err)
	}
	return f, nil
}

// open takes a file apart that was scanned: only then do the names of its
// members mean one thing, and what is verified is what is used.
func open(data []byte) (*envelope, error) {
	var parts struct {
		Signed     json.RawMessage      `json:"signed"`
		Signatures []metadata.Signature `json:"signatures"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return nil, err
	}
	if parts.Signed == nil {
		return nil, errors.New("it has no member signed")
	}
	e := &envelope{signed: parts.Signed, signatures: map[string]metadata.HexBytes{}}
	for _, s := range parts.Signatures {
		if _, ok := e.signatures[s.KeyID]; ok {
			return nil, fmt.Errorf("key %s has two signatures", quote(s.KeyID))
		}
		e.signatures[s.KeyID] = s.Signature
	}
	var err error
	e.payload, err = cjson.EncodeCanonical(parts.Signed)
	return e, err
}

// grant is what a delegator says of a role: which keys sign it, and how many.
type grant struct {
	keys      map[string]*metadata.Key
	ids       []string
	threshold int
}

func grantOfRoot(root *metadata.RootType, role string) grant {
	r := root.Roles[role]
	if r == nil {
		return grant{}
	}
	return grant{root.Keys, r.KeyIDs, r.Threshold}
}

func grantOfTargets(t *metadata.TargetsType, role string) grant {
	d := t.Delegations
	if d == nil {
		return grant{}
	}
	if s := d.SuccinctRoles; s != nil {
		return grant{d.Keys, s.KeyIDs, s.Threshold}
	}
	for _, r := range d.Roles {
		if r.Name == role {
			return grant{d.Keys, r.KeyIDs, r.Threshold}
		}
	}
	return grant{}
}

// verifiedBy says whether enough of the keys have signed the file. A key under
// two identifiers counts once. One that is not there, or is of a kind that is
// not known here, counts for nothing: others may be able to use it. An identifier
// that is there again costs no second verification: a role can list one 70,000 times.
func (e *envelope) verifiedBy(g grant) error {
	found, tried := map[string]bool{}, map[string]bool{}
	for _, id := range g.ids {
		if len(found) >= g.threshold {
			break
		}
		sig, ok := e.signatures[id]
		if key := g.keys[id]; ok && key != nil && !tried[id] {
			tried[id] = true
			if pub, der, err := publicKey(key); err == nil && verify(pub, key.Scheme, e.payload, sig) {
				found[der] = true
			}
		}
	}
	if g.threshold < 1 || len(found) < g.threshold {
		return fmt.Errorf("%d of the %d signatures that are needed", len(found), g.threshold)
	}
	return nil
}

// publicKey returns the key and its PKIX form, by which keys are told apart.
func publicKey(k *metadata.Key) (pub crypto.PublicKey, der string, err error) {
	if pub, err = k.ToPublicKey(); err != nil {
		return nil, "", err
	}
	if ed, ok := pub.(ed25519.PublicKey); ok && len(ed) != ed25519.PublicKeySize {
		return nil, "", fmt.Errorf("an Ed25519 key of %d bytes", len(ed))
	}
	b, err := x509.MarshalPKIXPublicKey(pub)
	return pub, string(b), err
}

// verify checks one signature by the schemes of section 4.2 of the
// specification, and ECDSA with P-384, which other tools have too.
func verify(pub crypto.PublicKey, scheme string, message, sig []byte) bool {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(pub, message, sig)
	case *ecdsa.PublicKey:
		if scheme == metadata.KeySchemeECDSA_SHA2_P384 {
			sum := sha512.Sum384(message)
			return ecdsa.VerifyASN1(pub, sum[:], sig)
		}
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(pub, sum[:], sig)
	case *rsa.PublicKey:
		sum := sha256.Sum256(message)
		return rsa.VerifyPSS(pub, crypto.SHA256, sum[:], sig, nil) == nil
	}
	return false
}
