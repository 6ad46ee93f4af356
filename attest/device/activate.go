package device

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/measure/tpm"
)

// activateTries bounds how often an activation starts again because some PCR, not necessarily a selected one, was
// extended between PolicyPCR and its use.
const activateTries = 8

// sessionNonce is the size of session nonces in bytes.
const sessionNonce = 16

// activate has the TPM open the credential, which it does only under the release key's approval of the PCR values
// that were quoted, of this credential, and of this boot.
func (c *Client) activate(ctx context.Context, x *exchange, credential *keys.Credential) ([]byte, error) {
	policy, cpHash := keys.ReleasePolicy(x.quoted, credential, x.clock), credential.CPHash()
	p := &approved{
		tpm: c.TPM, release: c.ReleaseKey, policy: policy, ref: keys.RefRelease, signature: x.release.Approval,
		steps: func(s tpm2.TPMISHPolicy) []step {
			return []step{
				func(ctx context.Context) error {
					_, err := tpm2.PolicyPCR{PolicySession: s, Pcrs: x.quoted.Selection()}.Execute(c.TPM.With(ctx))
					return err
				},
				func(ctx context.Context) error {
					_, err := tpm2.PolicyCPHash{PolicySession: s, CPHashA: tpm2.TPM2BDigest{Buffer: cpHash}}.Execute(c.TPM.With(ctx))
					return err
				},
				func(ctx context.Context) error {
					operand, offset, operation := keys.SinceStart(x.clock)
					return c.TPM.PolicyCounterTimer(ctx, s, operand, offset, operation)
				},
			}
		},
		code: tpm2.TPMCCActivateCredential,
		// Salted to the EK of M1, for which the server has signed; only the answer is encrypted, because encrypting
		// the first parameter of the command would change its cpHash.
		options: []tpm2.AuthOption{tpm2.Salted(x.ek.handle, *x.ek.public), tpm2.AESEncryption(128, tpm2.EncryptOut)},
	}
	var k []byte
	err := p.do(ctx, func(s tpm2.Session) error {
		ekAuth, closeEK, err := ekSession(ctx, c.TPM, x.ek)
		if err != nil {
			return err
		}
		defer closeEK()
		command := credential.Command()
		command.ActivateHandle, command.KeyHandle = x.ak.auth(s), x.ek.auth(ekAuth)
		rsp, err := command.Execute(c.TPM.With(ctx))
		if err != nil {
			return err
		}
		k = rsp.CertInfo.Buffer
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("activate the credential: %w", err)
	}
	return k, nil
}

// ekSession authorises the use of the EK: with its empty auth value where the template allows that, else by
// PolicySecret(endorsement), whose auth value is empty too.
func ekSession(ctx context.Context, t *tpm.TPM, ek *key) (tpm2.Session, func(), error) {
	if ek.public.ObjectAttributes.UserWithAuth {
		return tpm2.PasswordAuth(nil), func() {}, nil
	}
	s, _, err := tpm2.PolicySession(t.With(ctx), ek.public.NameAlg, sessionNonce)
	if err != nil {
		return nil, nil, fmt.Errorf("start session for the EK: %w", err)
	}
	done := func() { flush(t, s.Handle()) }
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: s.Handle(),
		NonceTPM:      s.NonceTPM(),
	}.Execute(t.With(ctx))
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("authorise the EK: %w", err)
	}
	return s, done, nil
}

type step func(context.Context) error

// approved runs a command in a policy session that the release key has approved.
type approved struct {
	tpm       *tpm.TPM
	release   *ecdsa.PublicKey
	policy    []byte // the policy that was approved: what steps lead to if the PCRs are right
	ref       string
	signature []byte // TPMT_SIGNATURE over policy and ref
	steps     func(tpm2.TPMISHPolicy) []step
	code      tpm2.TPMCC // PolicyCommandCode at the end, unless 0
	options   []tpm2.AuthOption
}

// do runs use with the session, and again from the start if the TPM says that PCRs have changed meanwhile.
func (p *approved) do(ctx context.Context, use func(tpm2.Session) error) error {
	signature, err := tpm2.Unmarshal[tpm2.TPMTSignature](p.signature)
	if err != nil {
		return fmt.Errorf("%w: approval %q: %w", ErrProtocol, p.ref, err)
	}
	for range activateTries {
		err = p.once(ctx, signature, use)
		if !errors.Is(err, tpm2.TPMRCPCRChanged) {
			return explain(err)
		}
	}
	return fmt.Errorf("%w: PCRs were extended during each of %d tries", ErrTPM, activateTries)
}

func (p *approved) once(ctx context.Context, signature *tpm2.TPMTSignature, use func(tpm2.Session) error) error {
	ticket, keyName, err := p.verify(ctx, signature)
	if err != nil {
		return err
	}
	s, _, err := tpm2.PolicySession(p.tpm.With(ctx), tpm2.TPMAlgSHA256, sessionNonce, p.options...)
	if err != nil {
		return fmt.Errorf("start policy session: %w", err)
	}
	defer func() { flush(p.tpm, s.Handle()) }()
	for _, do := range p.steps(s.Handle()) {
		if err := do(ctx); err != nil {
			return fmt.Errorf("policy session: %w", err)
		}
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  s.Handle(),
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: p.policy},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: []byte(p.ref)},
		KeySign:        tpm2.TPM2BName{Buffer: keyName},
		CheckTicket:    *ticket,
	}.Execute(p.tpm.With(ctx))
	if errors.Is(err, tpm2.TPMRCValue) {
		return fmt.Errorf("%w: the PCRs have changed since they were approved: %w", ErrTPMPolicy, err)
	}
	if err != nil {
		return fmt.Errorf("PolicyAuthorize: %w", err)
	}
	if p.code != 0 {
		if _, err := (tpm2.PolicyCommandCode{PolicySession: s.Handle(), Code: p.code}).Execute(p.tpm.With(ctx)); err != nil {
			return fmt.Errorf("PolicyCommandCode: %w", err)
		}
	}
	return use(s)
}

// verify has the TPM check the release key's signature. The key is loaded under the owner hierarchy, since under the
// null hierarchy the ticket would be empty.
func (p *approved) verify(ctx context.Context, signature *tpm2.TPMTSignature) (*tpm2.TPMTTKVerified, []byte, error) {
	public, err := keys.ReleaseKey(p.release)
	if err != nil {
		return nil, nil, err
	}
	loaded, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*public), Hierarchy: tpm2.TPMRHOwner}.Execute(p.tpm.With(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("load the release key: %w", err)
	}
	defer flush(p.tpm, loaded.ObjectHandle)
	rsp, err := tpm2.VerifySignature{
		KeyHandle: loaded.ObjectHandle,
		Digest:    tpm2.TPM2BDigest{Buffer: keys.ApprovalDigest(p.policy, p.ref)},
		Signature: *signature,
	}.Execute(p.tpm.With(ctx))
	if errors.Is(err, tpm2.TPMRCSignature) {
		return nil, nil, fmt.Errorf("%w: the release key did not approve this state for %q: %w", ErrTPMPolicy, p.ref, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("verify the approval: %w", err)
	}
	return &rsp.Validation, loaded.Name.Buffer, nil
}

// explain sorts a failure: a refusal by policy is not a TPM that does not work.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrTPMPolicy):
		return err
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPolicyCC), errors.Is(err, tpm2.TPMRCPolicy):
		return fmt.Errorf("%w: %w", ErrTPMPolicy, err)
	}
	return fmt.Errorf("%w: %w", ErrTPM, err)
}
