package device

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
)

// Logs explain the PCRs.
type Logs struct {
	Firmware []byte // binary_bios_measurements as the kernel gives it; empty if there is none
	Events   []byte // our own log, CEL-TLV; in phase renew with the cap in it
}

// Release is what attestd grants to a boot. Wipe it after the handover.
type Release struct {
	DecisionID        string
	FirstBoot         bool // a blank volume may be formatted
	SealKey           []byte
	AgentCert         []byte // PEM
	AgentApproval     []byte // a [wire.AgentApproval], encoded
	SiteCA            []byte // PEM
	Secrets           map[string][]byte
	AttestationResult []byte

	ack []byte // M5, encoded
}

// Wipe overwrites the secrets in memory.
func (r *Release) Wipe() {
	clear(r.SealKey)
	for _, v := range r.Secrets {
		clear(v)
	}
	*r = Release{}
}

// Renewal is what attestd grants to the running OS.
type Renewal struct {
	DecisionID    string
	AgentCert     []byte // PEM
	AgentApproval []byte // a [wire.AgentApproval], encoded
}

// Boot attests this boot and obtains the release. A denial is [ErrDenied]; a TPM that refuses to open what attestd
// granted, because something was measured meanwhile, is [ErrTPMPolicy]. Nothing is retried but what is safe to
// repeat inside the TPM; the caller may call Boot again.
func (c *Client) Boot(ctx context.Context, logs Logs) (*Release, error) {
	x, err := c.exchange(ctx, wire.PhaseBoot, logs)
	if err != nil {
		return nil, fmt.Errorf("attest this boot: %w", err)
	}
	defer x.flush()
	r, err := c.accept(ctx, x)
	if err != nil {
		return nil, fmt.Errorf("accept the release of decision %s: %w", x.release.Decision, err)
	}
	return r, nil
}

// Ack tells attestd that the secrets have arrived. Until then it counts this boot for nothing.
func (c *Client) Ack(ctx context.Context, r *Release) error {
	if _, err := c.post(ctx, wire.PathAck, r.ack, shortDeadline); err != nil {
		return fmt.Errorf("acknowledge decision %s: %w", r.DecisionID, err)
	}
	return nil
}

// Renew attests the running OS, after the cap, and obtains a new certificate for the agent key.
func (c *Client) Renew(ctx context.Context, logs Logs) (*Renewal, error) {
	x, err := c.exchange(ctx, wire.PhaseRenew, logs)
	if err != nil {
		return nil, fmt.Errorf("renew the agent certificate: %w", err)
	}
	defer x.flush()
	approval, err := c.agentApproval(&x.release)
	if err != nil {
		return nil, fmt.Errorf("renew the agent certificate: %w", err)
	}
	return &Renewal{DecisionID: x.release.Decision, AgentCert: x.release.AgentCertificate, AgentApproval: approval}, nil
}

// accept opens the credential and the box.
func (c *Client) accept(ctx context.Context, x *exchange) (*Release, error) {
	approval, err := c.agentApproval(&x.release)
	if err != nil {
		return nil, err
	}
	credential := &keys.Credential{
		AKName: x.ak.name, EKName: x.ek.name, Blob: x.release.Credential, Secret: x.release.EncryptedSecret,
	}
	k, err := c.activate(ctx, x, credential)
	if err != nil {
		return nil, err
	}
	defer clear(k)
	secrets, err := wire.OpenSecrets(k, x.transcript, x.release.Decision, x.release.Box)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	mac, err := wire.AckMAC(k, x.transcript, x.release.Decision)
	if err != nil {
		return nil, err
	}
	ack, err := wire.Marshal(&wire.Ack{Version: wire.Version, Decision: x.release.Decision, MAC: mac})
	if err != nil {
		return nil, err
	}
	return &Release{
		DecisionID: x.release.Decision, FirstBoot: secrets.FirstBoot, SealKey: secrets.SealKey,
		AgentCert: secrets.AgentCertificate, AgentApproval: approval, SiteCA: secrets.SiteCA,
		Secrets: secrets.Extra, AttestationResult: secrets.AttestationResult, ack: ack,
	}, nil
}

// agentApproval is the approval as it is handed to the OS.
func (c *Client) agentApproval(r *wire.Release) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(c.ReleaseKey)
	if err != nil {
		return nil, fmt.Errorf("encode release key: %w", err)
	}
	return wire.Marshal(&wire.AgentApproval{
		Version: wire.Version, Bank: r.AgentBank, PCRs: r.AgentPCRs, Signature: r.AgentApproval, ReleaseKey: der,
	})
}
