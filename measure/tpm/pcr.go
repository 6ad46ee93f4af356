package tpm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

// ErrBank means that a bank, or a PCR of a bank, is not active in this TPM.
var ErrBank = errors.New("PCR bank is not active")

// snapshotTries bounds how often [TPM.ReadPCRs] starts again because somebody
// extended a PCR while it was reading.
const snapshotTries = 5

// Banks returns the algorithms of the active PCR banks, in ascending order. At
// least one is active.
func (t *TPM) Banks(ctx context.Context) ([]tpm2.TPMAlgID, error) {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapPCRs,
		PropertyCount: 1,
	}.Execute(t.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("ask the TPM for its PCR banks: %w", err)
	}
	selections, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("ask the TPM for its PCR banks: %w", err)
	}
	var banks []tpm2.TPMAlgID
	for _, s := range selections.PCRSelections {
		if len(selected(s.PCRSelect)) > 0 && !slices.Contains(banks, s.Hash) {
			banks = append(banks, s.Hash)
		}
	}
	if len(banks) == 0 {
		return nil, fmt.Errorf("%w: the TPM has none at all; activate SHA-256 in the firmware setup", ErrBank)
	}
	slices.Sort(banks)
	return banks, nil
}

// ReadPCRs returns the values of some PCRs of one bank, all of the same moment.
// It fails with [ErrBank] when the TPM does not have every one of them.
func (t *TPM) ReadPCRs(ctx context.Context, bank tpm2.TPMAlgID, pcrs []int) (map[int][]byte, error) {
	for _, index := range pcrs {
		if index < 0 || index >= pcr.Count {
			return nil, fmt.Errorf("read PCR %d: there are only %d", index, pcr.Count)
		}
	}
	for range snapshotTries {
		values, ok, err := t.readPCRsOnce(ctx, bank, pcrs)
		if err != nil {
			return nil, fmt.Errorf("read PCRs %v of bank %s: %w", pcrs, pcr.BankName(bank), err)
		}
		if ok {
			return values, nil
		}
	}
	return nil, fmt.Errorf("read PCRs %v of bank %s: they were extended during each of %d tries", pcrs, pcr.BankName(bank), snapshotTries)
}

// readPCRsOnce reads in as many commands as it takes, since a TPM returns at most
// 8 values at once. It is not ok if a PCR was extended between two of them.
func (t *TPM) readPCRsOnce(ctx context.Context, bank tpm2.TPMAlgID, pcrs []int) (values map[int][]byte, ok bool, err error) {
	values = make(map[int][]byte)
	missing := make(map[int]bool)
	for _, index := range pcrs {
		missing[index] = true
	}
	var counter uint32
	for len(missing) > 0 {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: Selection(bank, slices.Sorted(maps.Keys(missing))...)}.Execute(t.With(ctx))
		if err != nil {
			return nil, false, err
		}
		if len(values) > 0 && rsp.PCRUpdateCounter != counter {
			return nil, false, nil
		}
		counter = rsp.PCRUpdateCounter
		if err := takeValues(values, missing, bank, rsp); err != nil {
			return nil, false, err
		}
	}
	return values, true, nil
}

// takeValues moves the PCRs of one response from missing to values.
func takeValues(values map[int][]byte, missing map[int]bool, bank tpm2.TPMAlgID, rsp *tpm2.PCRReadResponse) error {
	hash, err := pcr.Hash(bank)
	if err != nil {
		return err
	}
	digests := rsp.PCRValues.Digests
	var got []int
	for _, s := range rsp.PCRSelectionOut.PCRSelections {
		if s.Hash == bank {
			got = append(got, selected(s.PCRSelect)...)
		}
	}
	if len(got) == 0 {
		return fmt.Errorf("%w: no PCR %v", ErrBank, slices.Sorted(maps.Keys(missing)))
	}
	if len(got) != len(digests) {
		return fmt.Errorf("%w: %d values for %d PCRs", errResponse, len(digests), len(got))
	}
	for i, index := range got {
		if !missing[index] || len(digests[i].Buffer) != hash.Size() {
			return fmt.Errorf("%w: PCR %d was not asked for, or its value is %d bytes", errResponse, index, len(digests[i].Buffer))
		}
		delete(missing, index)
		values[index] = digests[i].Buffer
	}
	return nil
}

// Extend extends one PCR in every active bank. It refuses to run unless digests
// has exactly one digest a bank: a bank that is left out could be filled with
// whatever an attacker likes and then be quoted.
func (t *TPM) Extend(ctx context.Context, index int, digests map[tpm2.TPMAlgID][]byte) error {
	banks, err := t.Banks(ctx)
	if err != nil {
		return err
	}
	values, err := digestValues(banks, digests)
	if err != nil {
		return fmt.Errorf("extend PCR %d: %w", index, err)
	}
	if index < 0 || index >= pcr.Count {
		return fmt.Errorf("extend PCR %d: there are only %d", index, pcr.Count)
	}
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: values},
	}.Execute(t.With(ctx))
	if err != nil {
		return fmt.Errorf("extend PCR %d: %w", index, err)
	}
	return nil
}

func digestValues(banks []tpm2.TPMAlgID, digests map[tpm2.TPMAlgID][]byte) ([]tpm2.TPMTHA, error) {
	var values []tpm2.TPMTHA
	for _, bank := range banks {
		hash, err := pcr.Hash(bank)
		if err != nil {
			return nil, err
		}
		digest, ok := digests[bank]
		if !ok {
			return nil, fmt.Errorf("no digest for active bank %s", pcr.BankName(bank))
		}
		if len(digest) != hash.Size() {
			return nil, fmt.Errorf("digest for bank %s is %d bytes, not %d", pcr.BankName(bank), len(digest), hash.Size())
		}
		values = append(values, tpm2.TPMTHA{HashAlg: bank, Digest: digest})
	}
	if len(digests) != len(banks) {
		return nil, fmt.Errorf("%w: %d digests for %d active banks", ErrBank, len(digests), len(banks))
	}
	return values, nil
}

// Selection selects PCRs of one bank.
func Selection(bank tpm2.TPMAlgID, pcrs ...int) tpm2.TPMLPCRSelection {
	indices := make([]uint, len(pcrs))
	for i, index := range pcrs {
		indices[i] = uint(index)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      bank,
		PCRSelect: tpm2.PCClientCompatible.PCRs(indices...),
	}}}
}

// selected returns the PCRs that are set in a bitmap, in ascending order.
func selected(bitmap []byte) []int {
	var pcrs []int
	for i, b := range bitmap {
		for bit := range 8 {
			if b&(1<<bit) != 0 {
				pcrs = append(pcrs, i*8+bit)
			}
		}
	}
	return pcrs
}
