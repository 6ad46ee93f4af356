package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// FirmwareLogPath is where Linux shows the firmware's event log.
const FirmwareLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Evidence is what a machine can say of itself without attestd: enough to enrol it, and to see why it was
// denied. Nothing of it is signed.
type Evidence struct {
	// EKs are the identities that this TPM can prove, hex SHA-256 of each endorsement key's public area.
	// The first is the one it will use.
	EKs []string `json:"eks"`
	// Certificates are the endorsement keys' certificates as the TPM stores them, by NV index.
	Certificates map[string][]byte `json:"certificates,omitempty"`
	// PCRs are the values of PCR 0 to 15, in hex, by bank.
	PCRs        map[string]map[int]string `json:"pcrs"`
	FirmwareLog []byte                    `json:"firmwareLog,omitempty"`
	EventLog    []byte                    `json:"eventLog,omitempty"`
}

// Gather reads the evidence of this machine. Dir is the handover, whose event log is added if it is there.
func Gather(ctx context.Context, t *tpm.TPM, dir string) (*Evidence, error) {
	e := &Evidence{Certificates: map[string][]byte{}, PCRs: map[string]map[int]string{}}
	var err error
	if e.EKs, err = (&device.Client{TPM: t}).EKs(ctx); err != nil {
		return nil, fmt.Errorf("gather evidence: %w", err)
	}
	for _, ek := range keys.EKs() {
		cert, err := t.ReadNV(ctx, ek.CertIndex)
		// An OS can leave an index there that takes a password, say. It is none of a maker's then.
		if _, refused := errors.AsType[tpm2.TPMRC](err); refused || errors.Is(err, tpm.ErrNoNV) || errors.Is(err, tpm.ErrNVAlgorithm) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("gather evidence: certificate of the %s endorsement key: %w", ek.Name, err)
		}
		e.Certificates[fmt.Sprintf("%#08x", uint32(ek.CertIndex))] = cert
	}
	if err := e.readPCRs(ctx, t); err != nil {
		return nil, fmt.Errorf("gather evidence: %w", err)
	}
	if e.FirmwareLog, err = optional(os.ReadFile(FirmwareLogPath)); err != nil {
		return nil, fmt.Errorf("gather evidence: %w", err)
	}
	e.EventLog, err = ReadFile(dir, FileEventLog)
	if err != nil && !errors.Is(err, ErrNotAttested) {
		return nil, fmt.Errorf("gather evidence: %w", err)
	}
	return e, nil
}

func (e *Evidence) readPCRs(ctx context.Context, t *tpm.TPM) error {
	banks, err := t.Banks(ctx)
	if err != nil {
		return err
	}
	index := make([]int, 16)
	for i := range index {
		index[i] = i
	}
	for _, b := range banks {
		values, err := t.ReadPCRs(ctx, b, index)
		if err != nil {
			return err
		}
		out := map[int]string{}
		for i, v := range values {
			out[i] = hex.EncodeToString(v)
		}
		e.PCRs[pcr.BankName(b)] = out
	}
	return nil
}

func optional(b []byte, err error) ([]byte, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
