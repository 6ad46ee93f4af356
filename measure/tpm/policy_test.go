package tpm_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestPolicyCounterTimer holds a session to the resets that the TPM counts, and to others.
func TestPolicyCounterTimer(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	clock, err := tpm2.ReadClock{}.Execute(tp)
	if err != nil {
		t.Fatal(err)
	}
	now := clock.CurrentTime.ClockInfo.ResetCount
	for _, resets := range []uint32{now, now - 1, now + 1} {
		s, done, err := tpm2.PolicySession(tp, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			t.Fatal(err)
		}
		err = tp.PolicyCounterTimer(t.Context(), s.Handle(), binary.BigEndian.AppendUint32(nil, resets), 16, tpm2.TPMEOEq)
		if resets == now && err != nil || resets != now && !errors.Is(err, tpm2.TPMRCPolicy) {
			t.Errorf("%d resets, of which the TPM counts %d: %v", resets, now, err)
		}
		if err := done(); err != nil {
			t.Error(err)
		}
	}
}
