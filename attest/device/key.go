package device

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm"
)

// flushDeadline bounds the clean-up that follows a command, even one that was cancelled.
const flushDeadline = 10 * time.Second

// key is a key in the TPM.
type key struct {
	handle    tpm2.TPMHandle
	public    *tpm2.TPMTPublic
	raw       []byte // TPMT_PUBLIC
	name      []byte
	cert      []byte // the EK's certificate, as read from NV
	transient bool   // it is gone after flush
	flush     func()
}

func (k *key) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: tpm2.TPM2BName{Buffer: k.name}, Auth: s}
}

// newKey takes over a handle. Its public area and Name are computed here, never believed.
func newKey(t *tpm.TPM, handle tpm2.TPMHandle, public *tpm2.TPMTPublic, transient bool) (*key, error) {
	k := &key{handle: handle, public: public, raw: tpm2.Marshal(*public), transient: transient, flush: func() {}}
	if transient {
		k.flush = func() { flush(t, handle) }
	}
	var err error
	if k.name, err = keys.Name(public); err != nil {
		k.flush()
		return nil, fmt.Errorf("%w: %w", ErrTPM, err)
	}
	return k, nil
}

// flush removes an object or a session. A failure to do so is no reason to fail what was done with it, and the
// loader flushes everything before kexec.
func flush(t *tpm.TPM, handle tpm2.TPMHandle) {
	ctx, cancel := context.WithTimeout(context.Background(), flushDeadline)
	defer cancel()
	_, _ = tpm2.FlushContext{FlushHandle: handle}.Execute(t.With(ctx))
}

// createPrimary makes a key from a template. The caller flushes it.
func createPrimary(ctx context.Context, t *tpm.TPM, hierarchy tpm2.TPMHandle, template *tpm2.TPMTPublic) (*key, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(*template),
	}.Execute(t.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: create primary key: %w", ErrTPM, err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil || !keys.Matches(public, template) {
		flush(t, rsp.ObjectHandle)
		return nil, fmt.Errorf("%w: it created another key than it was asked for: %v", ErrTPM, err) //nolint:errorlint // may be nil
	}
	return newKey(t, rsp.ObjectHandle, public, true)
}

// findEK finds the endorsement key: the first kind, in the order of preference, that has its maker's certificate; else
// the first that the TPM can make. The certificate must be for the key: an EK that attestd cannot know is of no use.
//
// What decides is nothing that an OS with owner rights can leave behind. It can put any key of an EK's template at the
// persistent handles, since the template leaves part of what a key is made from open, and certificates of its own into
// NV. Either would give the machine another identity from then on.
func findEK(ctx context.Context, t *tpm.TPM) (*key, error) {
	var problems error
	for _, find := range []func(context.Context, *tpm.TPM, *keys.EK) (*key, error){certifiedEK, createdEK} {
		for _, kind := range keys.EKs() {
			ek, err := find(ctx, t, &kind)
			if err == nil {
				return ek, nil
			}
			if !errors.Is(err, tpm.ErrNoNV) {
				problems = errors.Join(problems, fmt.Errorf("%s EK: %w", kind.Name, err))
			}
			if ctx.Err() != nil {
				return nil, problems
			}
		}
	}
	return nil, problems
}

// certifiedEK finds the key of that kind that the TPM's maker has certified: at its persistent handle, or made anew,
// which on a real TPM can take tens of seconds for RSA. It fails with [tpm.ErrNoNV] if there is no such certificate.
func certifiedEK(ctx context.Context, t *tpm.TPM, kind *keys.EK) (*key, error) {
	cert, err := certificate(ctx, t, kind)
	if err != nil {
		return nil, err
	}
	if !cert.maker {
		return nil, tpm.ErrNoNV
	}
	if rsp, err := (tpm2.ReadPublic{ObjectHandle: kind.Handle}).Execute(t.With(ctx)); err == nil {
		public, err := rsp.OutPublic.Contents()
		if err == nil && keys.Matches(public, &kind.Template) && isKey(public, cert.key) {
			ek, err := newKey(t, kind.Handle, public, false)
			if err == nil {
				ek.cert = cert.raw
			}
			return ek, err
		}
	}
	ek, err := createPrimary(ctx, t, tpm2.TPMRHEndorsement, &kind.Template)
	if err != nil {
		return nil, err
	}
	if !isKey(ek.public, cert.key) {
		ek.flush()
		return nil, fmt.Errorf("%w: its certificate is for another key; was the TPM replaced or its endorsement seed changed?", ErrTPM)
	}
	ek.cert = cert.raw
	return ek, nil
}

// createdEK makes the key of that kind, whatever is at its persistent handle. A certificate that an owner has written
// goes with it if it is for this key: attestd may trust who issued it.
func createdEK(ctx context.Context, t *tpm.TPM, kind *keys.EK) (*key, error) {
	ek, err := createPrimary(ctx, t, tpm2.TPMRHEndorsement, &kind.Template)
	if err != nil {
		return nil, err
	}
	if cert, err := certificate(ctx, t, kind); err == nil && isKey(ek.public, cert.key) {
		ek.cert = cert.raw
	}
	return ek, nil
}

// ekCertificate is what lies in NV as the certificate of an EK.
type ekCertificate struct {
	raw   []byte
	key   publicKey
	maker bool // only the platform can have put it there: no owner, no OS
}

func certificate(ctx context.Context, t *tpm.TPM, kind *keys.EK) (*ekCertificate, error) {
	index, _, err := t.NVPublic(ctx, kind.CertIndex)
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", uint32(kind.CertIndex), err)
	}
	raw, err := t.ReadNV(ctx, kind.CertIndex)
	if err != nil {
		return nil, err
	}
	key, err := certifiedKey(raw)
	if err != nil {
		return nil, fmt.Errorf("certificate at %#x: %w", uint32(kind.CertIndex), err)
	}
	a := index.Attributes
	return &ekCertificate{raw: raw, key: key, maker: a.PlatformCreate && !a.OwnerWrite && !a.AuthWrite && !a.PolicyWrite}, nil
}

// publicKey is what the standard library's public keys have in common.
type publicKey interface{ Equal(crypto.PublicKey) bool }

func isKey(public *tpm2.TPMTPublic, want publicKey) bool {
	got, err := tpm2.Pub(*public)
	return err == nil && want.Equal(got)
}

// certifiedKey reads the public key of an EK certificate. NV often has padding behind it; what the certificate is
// worth is for attestd to decide.
func certifiedKey(nv []byte) (publicKey, error) {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(nv, &outer); err != nil {
		return nil, fmt.Errorf("%w: not a certificate: %w", ErrTPM, err)
	}
	cert, err := x509.ParseCertificate(outer.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: not a certificate: %w", ErrTPM, err)
	}
	switch k := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		return k, nil
	}
	return nil, fmt.Errorf("%w: certificate for a %T", ErrTPM, cert.PublicKey)
}

// EKs returns the identities that this TPM can prove, hex SHA-256 of each EK's public area: what an enrolment station
// registers. The first is the one that this client will use.
func (c *Client) EKs(ctx context.Context) ([]string, error) {
	first, err := c.loadEK(ctx)
	if err != nil {
		return nil, err
	}
	first.flush()
	ids := []string{wire.KeyID(first.raw)}
	for _, kind := range keys.EKs() {
		ek, err := certifiedEK(ctx, c.TPM, &kind)
		if err != nil {
			ek, err = createdEK(ctx, c.TPM, &kind)
		}
		if err != nil {
			continue // a kind that this TPM cannot make
		}
		ek.flush()
		if id := wire.KeyID(ek.raw); !bytes.Equal(ek.raw, first.raw) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// EK returns the identity that this client uses.
func (c *Client) EK(ctx context.Context) (string, error) {
	ek, err := c.loadEK(ctx)
	if err != nil {
		return "", err
	}
	defer ek.flush()
	return wire.KeyID(ek.raw), nil
}

// loadAK makes the attestation key, P-256 if the TPM can, else RSA.
func (c *Client) loadAK(ctx context.Context) (*key, error) {
	templates, err := keys.AKs(c.ReleaseKey)
	if err != nil {
		return nil, err
	}
	var problems error
	for i := range templates {
		ak, err := createPrimary(ctx, c.TPM, tpm2.TPMRHEndorsement, &templates[i])
		if err == nil {
			return ak, nil
		}
		problems = errors.Join(problems, err)
	}
	return nil, fmt.Errorf("make the attestation key: %w", problems)
}

func loadAgentKey(ctx context.Context, t *tpm.TPM, release *ecdsa.PublicKey) (*key, error) {
	template, err := keys.AgentKey(release)
	if err != nil {
		return nil, err
	}
	k, err := createPrimary(ctx, t, tpm2.TPMRHOwner, template)
	if err != nil {
		return nil, fmt.Errorf("make the agent key: %w", err)
	}
	return k, nil
}
