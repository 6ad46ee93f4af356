package floor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

const (
	indexSize = slots * slotSize
	nonceSize = 16
)

// attributes are those of the index when it is defined. There is no OWNERWRITE and
// no AUTHWRITE: only the policy writes, and only POLICYWRITE may lock.
var attributes = tpm2.TPMANV{
	PolicyWrite:  true,
	WriteSTClear: true,
	OwnerRead:    true,
	AuthRead:     true,
	NoDA:         true,
}

// public returns the public area that we define.
func (s Store) public(ctx context.Context) (*tpm2.TPMSNVPublic, error) {
	bank, err := s.bank(ctx)
	if err != nil {
		return nil, err
	}
	policy, err := s.policy(bank)
	if err != nil {
		return nil, err
	}
	return &tpm2.TPMSNVPublic{
		NVIndex:    Index,
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: attributes,
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		DataSize:   indexSize,
	}, nil
}

// check makes sure that the index is the one that we define, written, and perhaps
// locked: these two attributes are part of its Name, which it returns.
func (s Store) check(ctx context.Context) (tpm2.TPM2BName, error) {
	found, name, err := s.TPM.NVPublic(ctx, Index)
	if errors.Is(err, tpm.ErrNoNV) {
		return tpm2.TPM2BName{}, ErrMissing
	}
	if errors.Is(err, tpm.ErrNVAlgorithm) {
		return tpm2.TPM2BName{}, fmt.Errorf("%w: %w", ErrRedefined, err)
	}
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	want, err := s.public(ctx)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	want.Attributes.Written = found.Attributes.Written
	want.Attributes.WriteLocked = found.Attributes.WriteLocked
	wantName, err := tpm2.NVName(want)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	if !slices.Equal(name.Buffer, wantName.Buffer) {
		return tpm2.TPM2BName{}, fmt.Errorf("%w: its Name is %x, not %x", ErrRedefined, name.Buffer, wantName.Buffer)
	}
	if !found.Attributes.Written {
		return tpm2.TPM2BName{}, ErrUninitialised
	}
	return name, nil
}

// bank returns the bank that the write policy looks at. Any would do, since the
// loader extends all; which one it is must not depend on anything but the TPM.
func (s Store) bank(ctx context.Context) (tpm2.TPMAlgID, error) {
	banks, err := s.TPM.Banks(ctx)
	if err != nil {
		return 0, err
	}
	for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		if slices.Contains(banks, bank) {
			return bank, nil
		}
	}
	return 0, fmt.Errorf("%w: none of SHA-256, SHA-384 and SHA-512", tpm.ErrBank)
}

// policyPCR is the one statement of the write policy: the image PCR is zero.
func (s Store) policyPCR(bank tpm2.TPMAlgID) (tpm2.PolicyPCR, error) {
	zero, err := pcr.Digest(tpm2.TPMAlgSHA256, pcr.Zero(bank))
	if err != nil {
		return tpm2.PolicyPCR{}, err
	}
	return tpm2.PolicyPCR{
		PcrDigest: tpm2.TPM2BDigest{Buffer: zero},
		Pcrs:      tpm.Selection(bank, s.pcr()),
	}, nil
}

func (s Store) policy(bank tpm2.TPMAlgID) ([]byte, error) {
	statement, err := s.policyPCR(bank)
	if err != nil {
		return nil, err
	}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if err := statement.Update(calculator); err != nil {
		return nil, err
	}
	return calculator.Hash().Digest, nil
}

// writer returns a session that satisfies the write policy for one command.
func (s Store) writer(ctx context.Context) tpm2.Session {
	return tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, func(_ transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		bank, err := s.bank(ctx)
		if err != nil {
			return err
		}
		statement, err := s.policyPCR(bank)
		if err != nil {
			return err
		}
		statement.PolicySession = session
		_, err = statement.Execute(s.TPM.With(ctx))
		return err
	})
}

// refused adds [ErrRedefined] to the errors by which a TPM says that the index cannot be read as we have defined it: with
// an authorization value, for instance, which its Name does not cover. Other codes are about the TPM (a failed
// self-test, no memory, try again later), which no new floor would mend.
func refused(err error) error {
	code, ok := errors.AsType[tpm2.TPMRC](err)
	if !ok {
		return err
	}
	if _, aboutArgument := errors.AsType[tpm2.TPMFmt1Error](code); aboutArgument || slices.Contains(indexCodes, code) {
		return fmt.Errorf("%w: %w", ErrRedefined, err)
	}
	return err
}

// indexCodes are the codes about an NV index among those that name no argument of the command.
var indexCodes = []tpm2.TPMRC{
	tpm2.TPMRCNVRange, tpm2.TPMRCNVSize, tpm2.TPMRCNVLocked, tpm2.TPMRCNVAuthorization, tpm2.TPMRCNVUninitialized,
	tpm2.TPMRCAuthType, tpm2.TPMRCAuthUnavailable,
}

// closed adds [ErrClosed] to the errors by which a TPM says that a write comes too
// late: the PCR is not zero (TPM_RC_VALUE of PolicyPCR), was extended while we were
// writing, or the index is locked.
func closed(err error) error {
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCValue, tpm2.TPMRCPolicyFail, tpm2.TPMRCPCRChanged, tpm2.TPMRCNVLocked} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: %w", ErrClosed, err)
		}
	}
	return err
}

// owned adds [ErrOwner] to the errors by which a TPM says that its owner's authorization value is not empty.
func owned(err error) error {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w: %w", ErrOwner, err)
	}
	return err
}

func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
}
