package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// The ranges of handles that a command can leave behind (TPM 2.0 Library, Part
// 2, section 7.4): objects, then loaded and saved sessions of both sorts.
var leftovers = []tpm2.TPMHandle{0x80000000, 0x02000000, 0x03000000}

const (
	handlesAtOnce = 64
	maxFlushes    = 1024
)

// Flush flushes every transient object and every session that this connection
// can see, so that the next operating system finds the TPM empty. It is the last
// thing to do before kexec.
func (t *TPM) Flush(ctx context.Context) error {
	flushed := 0
	for _, first := range leftovers {
		for {
			handles, err := t.handles(ctx, first)
			if err != nil {
				return fmt.Errorf("flush the TPM: %w", err)
			}
			if len(handles) == 0 {
				break
			}
			for _, h := range handles {
				if flushed++; flushed > maxFlushes {
					return errors.New("flush the TPM: it lists handles without end")
				}
				if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.With(ctx)); err != nil {
					return fmt.Errorf("flush the TPM: handle %#x: %w", h, err)
				}
			}
		}
	}
	return nil
}

// handles returns some of the handles in the range that begins with first.
func (t *TPM) handles(ctx context.Context, first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapHandles,
		Property:      uint32(first),
		PropertyCount: handlesAtOnce,
	}.Execute(t.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("list handles from %#x: %w", first, err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, fmt.Errorf("list handles from %#x: %w", first, err)
	}
	return list.Handle, nil
}
