package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/pcr"
)

// quoteTries bounds how often a quote is repeated because a PCR was extended while it was made.
const quoteTries = 5

// exchange is one run of M1 to M4.
type exchange struct {
	ek, ak, agent *key
	m1, m2        []byte
	transcript    [32]byte
	quoted        keys.PCRs          // what was quoted
	clock         tpm2.TPMSClockInfo // of the quote: how often the TPM was started before
	release       wire.Release
}

func (x *exchange) flush() {
	for _, k := range []*key{x.agent, x.ak, x.ek} {
		if k != nil {
			k.flush()
		}
	}
}

// exchange runs M1 to M4 and verifies both answers. The caller flushes the result.
func (c *Client) exchange(ctx context.Context, phase wire.Phase, logs Logs) (_ *exchange, err error) {
	x := &exchange{}
	defer func() {
		if err != nil {
			x.flush()
		}
	}()
	if x.ek, err = c.loadEK(ctx); err != nil {
		return nil, err
	}
	if x.ak, err = c.loadAK(ctx); err != nil {
		return nil, err
	}
	if x.agent, err = loadAgentKey(ctx, c.TPM, c.ReleaseKey); err != nil {
		return nil, err
	}
	challenge, err := c.challenge(ctx, x, phase)
	if err != nil {
		return nil, err
	}
	m3, err := c.evidence(ctx, x, challenge, logs)
	if err != nil {
		return nil, err
	}
	// A TPM need only have room for three objects, and the activation brings its own.
	x.agent.flush()
	x.agent = nil
	m4, err := c.post(ctx, wire.PathEvidence, m3, evidenceDeadline)
	if err != nil {
		return nil, fmt.Errorf("send evidence: %w", err)
	}
	if err := c.open(wire.DomainRelease, x.transcript, m4, &x.release); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	if x.release.Phase != phase {
		return nil, fmt.Errorf("release: %w: for phase %q", ErrProtocol, x.release.Phase)
	}
	return x, nil
}

// challenge sends M1 and takes M2.
func (c *Client) challenge(ctx context.Context, x *exchange, phase wire.Phase) (*wire.Challenge, error) {
	nonce, err := newNonce()
	if err != nil {
		return nil, err
	}
	banks, err := c.TPM.Banks(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTPM, err)
	}
	d := &wire.Device{
		Version: wire.Version, Site: c.Site, Phase: phase, Nonce: nonce,
		EKPublic: x.ek.raw, EKCertificate: x.ek.cert, AKPublic: x.ak.raw, AgentPublic: x.agent.raw, Loader: c.Loader,
		Orders: c.orders,
	}
	for _, b := range banks {
		d.Banks = append(d.Banks, pcr.BankName(b))
	}
	if x.m1, err = wire.NewRequest(d, c.JoinToken); err != nil {
		return nil, err
	}
	if x.m2, err = c.post(ctx, wire.PathChallenge, x.m1, shortDeadline); err != nil {
		return nil, fmt.Errorf("ask for a challenge: %w", err)
	}
	var challenge wire.Challenge
	if err := c.open(wire.DomainChallenge, wire.HashMessage(x.m1), x.m2, &challenge); err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	x.transcript = wire.Transcript(x.m1, x.m2)
	return &challenge, nil
}

// evidence makes M3.
func (c *Client) evidence(ctx context.Context, x *exchange, challenge *wire.Challenge, logs Logs) ([]byte, error) {
	bank, err := pcr.ParseBank(challenge.Bank)
	if err != nil {
		return nil, fmt.Errorf("challenge: %w: %w", ErrProtocol, err)
	}
	quote, err := c.quote(ctx, x, bank, challenge.PCRs)
	if err != nil {
		return nil, err
	}
	certified, err := tpm2.Certify{
		ObjectHandle:   x.agent.auth(tpm2.PasswordAuth(nil)),
		SignHandle:     x.ak.auth(tpm2.PasswordAuth(nil)),
		QualifyingData: tpm2.TPM2BData{Buffer: x.transcript[:]},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(c.TPM.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: certify the agent key: %w", ErrTPM, err)
	}
	return wire.Marshal(&wire.Evidence{
		Version: wire.Version, M1: x.m1, M2: x.m2,
		Quote: quote.Quoted.Bytes(), QuoteSignature: tpm2.Marshal(quote.Signature),
		Certify: certified.CertifyInfo.Bytes(), CertifySig: tpm2.Marshal(certified.Signature),
		PCRValues: x.quoted.Values, FirmwareLog: logs.Firmware, EventLog: logs.Events,
	})
}

// quote reads the PCRs and quotes them, and again if they moved between the two.
func (c *Client) quote(ctx context.Context, x *exchange, bank tpm2.TPMAlgID, index []int) (*tpm2.QuoteResponse, error) {
	x.quoted = keys.PCRs{Bank: bank, Index: index}
	for range quoteTries {
		values, err := c.TPM.ReadPCRs(ctx, bank, index)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTPM, err)
		}
		x.quoted.Values = nil
		for _, i := range index {
			x.quoted.Values = append(x.quoted.Values, values[i])
		}
		rsp, err := tpm2.Quote{
			SignHandle:     x.ak.auth(tpm2.PasswordAuth(nil)),
			QualifyingData: tpm2.TPM2BData{Buffer: x.transcript[:]},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      x.quoted.Selection(),
		}.Execute(c.TPM.With(ctx))
		if err != nil {
			return nil, fmt.Errorf("%w: quote: %w", ErrTPM, err)
		}
		attest, info, err := quoted(rsp)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(info.PCRDigest.Buffer, x.quoted.Digest()) {
			x.clock = attest.ClockInfo
			return rsp, nil
		}
	}
	return nil, fmt.Errorf("%w: quote: PCRs were extended during each of %d tries", ErrTPM, quoteTries)
}

// quoted is what a quote says.
func quoted(rsp *tpm2.QuoteResponse) (*tpm2.TPMSAttest, *tpm2.TPMSQuoteInfo, error) {
	attest, err := rsp.Quoted.Contents()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: quote: %w", ErrTPM, err)
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: quote: %w", ErrTPM, errors.New("it attested something else"))
	}
	return attest, info, nil
}
