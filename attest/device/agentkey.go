package device

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// signDeadline bounds one signature, since crypto.Signer has no context.
const signDeadline = 30 * time.Second

// AgentKey is the agent key: it lives in the TPM and signs only in the OS that was attested, after the cap. It is a
// crypto.Signer for TLS client authentication. Concurrent use is safe.
type AgentKey struct {
	tpm      *tpm.TPM
	public   *ecdsa.PublicKey
	release  *ecdsa.PublicKey
	approval *wire.AgentApproval
	bank     tpm2.TPMAlgID
}

var _ crypto.Signer = (*AgentKey)(nil)

// NewAgentKey makes the key from its template and checks that it is the key of the certificate, if that is given.
func NewAgentKey(ctx context.Context, t *tpm.TPM, approval []byte, cert *x509.Certificate) (*AgentKey, error) {
	a := &AgentKey{tpm: t, approval: new(wire.AgentApproval)}
	if err := wire.Unmarshal(approval, a.approval); err != nil {
		return nil, fmt.Errorf("agent key: %w", err)
	}
	release, err := x509.ParsePKIXPublicKey(a.approval.ReleaseKey)
	if err != nil {
		return nil, fmt.Errorf("agent key: release key: %w", err)
	}
	var ok bool
	if a.release, ok = release.(*ecdsa.PublicKey); !ok || a.release.Curve != elliptic.P256() {
		return nil, fmt.Errorf("agent key: release key is %T, want ECDSA P-256", release)
	}
	if a.bank, err = pcr.ParseBank(a.approval.Bank); err != nil {
		return nil, fmt.Errorf("agent key: %w", err)
	}
	k, err := loadAgentKey(ctx, t, a.release)
	if err != nil {
		return nil, err
	}
	defer k.flush()
	public, err := tpm2.Pub(*k.public)
	if err != nil {
		return nil, fmt.Errorf("agent key: %w: %w", ErrTPM, err)
	}
	if a.public, ok = public.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("agent key: %w: it is a %T", ErrTPM, public)
	}
	if cert != nil && !a.public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("agent key: the certificate is for another key; renew it")
	}
	return a, nil
}

// Public returns the public key, an *ecdsa.PublicKey.
func (a *AgentKey) Public() crypto.PublicKey { return a.public }

// Sign signs a SHA-256 digest. In another OS, or before the cap, it fails with [ErrTPMPolicy].
func (a *AgentKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, fmt.Errorf("agent key signs SHA-256 only, not %v", opts.HashFunc())
	}
	ctx, cancel := context.WithTimeout(context.Background(), signDeadline)
	defer cancel()
	signature, err := a.sign(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("sign with the agent key: %w", err)
	}
	return signature, nil
}

func (a *AgentKey) sign(ctx context.Context, digest []byte) ([]byte, error) {
	now, err := a.pcrs(ctx)
	if err != nil {
		return nil, err
	}
	k, err := loadAgentKey(ctx, a.tpm, a.release)
	if err != nil {
		return nil, err
	}
	defer k.flush()
	p := &approved{
		tpm: a.tpm, release: a.release, policy: keys.AgentPolicy(now), ref: keys.RefAgentKey, signature: a.approval.Signature,
		steps: func(s tpm2.TPMISHPolicy) []step {
			return []step{func(ctx context.Context) error {
				_, err := tpm2.PolicyPCR{PolicySession: s, Pcrs: now.Selection()}.Execute(a.tpm.With(ctx))
				return err
			}}
		},
	}
	var rsp *tpm2.SignResponse
	err = p.do(ctx, func(s tpm2.Session) error {
		var err error
		rsp, err = tpm2.Sign{
			KeyHandle:  k.auth(s),
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(a.tpm.With(ctx))
		return err
	})
	if err != nil {
		return nil, err
	}
	ecc, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTPM, err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer),
	})
}

// pcrs reads the PCRs that the approval is over. If they are not the approved ones, the approval's signature does not
// verify over them.
func (a *AgentKey) pcrs(ctx context.Context) (keys.PCRs, error) {
	values, err := a.tpm.ReadPCRs(ctx, a.bank, a.approval.PCRs)
	if err != nil {
		return keys.PCRs{}, fmt.Errorf("%w: %w", ErrTPM, err)
	}
	p := keys.PCRs{Bank: a.bank, Index: a.approval.PCRs}
	for _, i := range p.Index {
		p.Values = append(p.Values, values[i])
	}
	return p, nil
}
