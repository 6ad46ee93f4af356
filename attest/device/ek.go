package device

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm"
)

// savedEK is an endorsement key outside of the TPM, which alone can read it, until the next reset. Where no key is
// persistent, creating one takes an RSA TPM seconds, and loading it milliseconds; keeping it loaded would cost one of
// the three objects that a TPM need have room for.
type savedEK struct {
	tpm     *tpm.TPM
	key     key // without a handle
	context tpm2.TPMSContext
}

// loadEK finds the endorsement key, or makes it once. The caller flushes it.
func (c *Client) loadEK(ctx context.Context) (*key, error) {
	if c.saved != nil && c.saved.tpm == c.TPM {
		if ek, err := c.saved.load(ctx); err == nil {
			return ek, nil
		}
		c.saved = nil // the TPM was reset, or has no room: make it anew
	}
	ek, err := findEK(ctx, c.TPM)
	if err != nil {
		return nil, fmt.Errorf("find the endorsement key: %w", err)
	}
	if ek.transient {
		// A TPM that cannot save it will create it again.
		if rsp, err := (tpm2.ContextSave{SaveHandle: ek.handle}).Execute(c.TPM.With(ctx)); err == nil {
			c.saved = &savedEK{tpm: c.TPM, key: *ek, context: rsp.Context}
		}
	}
	return ek, nil
}

func (s *savedEK) load(ctx context.Context) (*key, error) {
	rsp, err := tpm2.ContextLoad{Context: s.context}.Execute(s.tpm.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("load the endorsement key: %w", err)
	}
	ek := s.key
	ek.handle, ek.flush = rsp.LoadedHandle, func() { flush(s.tpm, rsp.LoadedHandle) }
	return &ek, nil
}
