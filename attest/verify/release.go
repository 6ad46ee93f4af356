package verify

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// ErrNotAllowed is returned when a release is asked for that the verdict does not allow.
var ErrNotAllowed = errors.New("the verdict does not allow a release")

// Grant is what a server adds to an allowed verdict.
type Grant struct {
	Decision   string        // identifies the audit record, which is durable by now
	ReleaseKey crypto.Signer // ECDSA P-256
	ServerKey  crypto.Signer // ECDSA P-256

	Secrets          *wire.Secrets // phase boot
	AgentCertificate []byte        // phase renew, PEM
}

// NewRelease makes M4. For phase boot it also returns the MAC that M5 must carry; the key K is forgotten.
//
// The approval binds the release to exactly the quoted PCR values and to this credential; the agent's approval is over
// the values that will be when the loader has ended.
func NewRelease(v *Verdict, g Grant) (m4, ack []byte, err error) {
	if !v.Allowed() {
		return nil, nil, ErrNotAllowed
	}
	facts := v.Verified
	r := &wire.Release{Version: wire.Version, Decision: g.Decision, Phase: facts.Device.Phase}
	if err := approveAgent(r, facts, g.ReleaseKey); err != nil {
		return nil, nil, fmt.Errorf("make release: %w", err)
	}
	switch r.Phase {
	case wire.PhaseBoot:
		if g.Secrets == nil {
			return nil, nil, fmt.Errorf("make release: %w: no secrets for a boot", ErrNotAllowed)
		}
		if ack, err = seal(r, facts, g); err != nil {
			return nil, nil, fmt.Errorf("make release: %w", err)
		}
	case wire.PhaseRenew:
		r.AgentCertificate = g.AgentCertificate
	}
	m4, err = wire.Sign(g.ServerKey, wire.DomainRelease, facts.Transcript, r)
	if err != nil {
		return nil, nil, fmt.Errorf("make release: %w", err)
	}
	return m4, ack, nil
}

// seal fills in the parts of a boot: credential, approval and box.
func seal(r *wire.Release, facts *Verified, g Grant) (ack []byte, err error) {
	k := make([]byte, wire.KeySize)
	defer clear(k)
	if _, err := rand.Read(k); err != nil {
		return nil, fmt.Errorf("make K: %w", err)
	}
	credential, err := keys.MakeCredential(facts.EK, facts.AKName, k)
	if err != nil {
		return nil, err
	}
	r.Credential, r.EncryptedSecret = credential.Blob, credential.Secret
	if r.Approval, err = keys.Approve(g.ReleaseKey, keys.ReleasePolicy(facts.PCRs, credential, facts.Clock), keys.RefRelease); err != nil {
		return nil, err
	}
	if r.Box, err = wire.SealSecrets(k, facts.Transcript, g.Decision, g.Secrets); err != nil {
		return nil, err
	}
	return wire.AckMAC(k, facts.Transcript, g.Decision)
}

func approveAgent(r *wire.Release, facts *Verified, release crypto.Signer) error {
	after, err := facts.afterCap()
	if err != nil {
		return err
	}
	r.AgentBank, r.AgentPCRs = pcr.BankName(after.Bank), after.Index
	r.AgentApproval, err = keys.Approve(release, keys.AgentPolicy(*after), keys.RefAgentKey)
	return err
}

// afterCap are the agent's PCRs as they will be in the OS: those that were quoted, and the cap.
func (v *Verified) afterCap() (*keys.PCRs, error) {
	after := &keys.PCRs{Bank: v.PCRs.Bank, Index: v.agentSelection}
	for _, index := range after.Index {
		value, ok := v.PCR(index)
		if !ok {
			return nil, fmt.Errorf("PCR %d of the agent's selection was not quoted", index)
		}
		if index == v.ImagePCR && v.Device.Phase == wire.PhaseBoot {
			digest, err := cel.Digest(v.PCRs.Bank, event.CapRecord())
			if err != nil {
				return nil, fmt.Errorf("predict the cap: %w", err)
			}
			values := pcr.Values{index: value}
			if err := values.Extend(v.PCRs.Bank, index, digest); err != nil {
				return nil, fmt.Errorf("predict the cap: %w", err)
			}
			value = values[index]
		}
		after.Values = append(after.Values, value)
	}
	return after, nil
}
