package tpm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// PolicyCounterTimer has a policy session hold only if the part of the TPM's
// TPMS_TIME_INFO at the offset compares with the operand as the operation says
// (TPM 2.0 Part 3, 23.10). What the TPM refuses is a [tpm2.TPMRC]. go-tpm has no
// such command.
func (t *TPM) PolicyCounterTimer(ctx context.Context, session tpm2.TPMISHPolicy, operand []byte, offset uint16, operation tpm2.TPMEO) error {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, uint32(headerSize+4+2+len(operand)+2+2))
	b = binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMCCPolicyCounterTimer))
	b = binary.BigEndian.AppendUint32(b, session.HandleValue())
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(operand))), operand...)
	b = binary.BigEndian.AppendUint16(b, offset)
	b = binary.BigEndian.AppendUint16(b, uint16(operation))
	response, err := t.send(ctx, b)
	if err != nil {
		return err
	}
	if code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); code != tpm2.TPMRCSuccess {
		return fmt.Errorf("TPM2_PolicyCounterTimer: %w", code)
	}
	return nil
}
