package tpm_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestPolicyCounterTimer holds a session to the counts of the TPM's starts, and to others. Each way to start the TPM
// changes at least one of them.
func TestPolicyCounterTimer(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{})
	counts := func() uint64 {
		t.Helper()
		clock, err := tpm2.ReadClock{}.Execute(tp)
		if err != nil {
			t.Fatal(err)
		}
		now := clock.CurrentTime.ClockInfo
		return uint64(now.ResetCount)<<32 | uint64(now.RestartCount)
	}
	holds := func(want uint64) error {
		t.Helper()
		s, done, err := tpm2.PolicySession(tp, tpm2.TPMAlgSHA256, 16)
		if err != nil {
			t.Fatal(err)
		}
		err = tp.PolicyCounterTimer(t.Context(), s.Handle(), binary.BigEndian.AppendUint64(nil, want), 16, tpm2.TPMEOEq)
		if err := done(); err != nil {
			t.Error(err)
		}
		return err
	}
	for _, start := range []struct {
		name string
		how  func(testing.TB)
	}{{"restart", tp.Restart}, {"resume", tp.Suspend}, {"restart", tp.Restart}, {"reset", tp.Reset}, {"reset", tp.Reset}} {
		before := counts()
		if err := holds(before); err != nil {
			t.Errorf("its own counts %#x: %v", before, err)
		}
		start.how(t)
		for _, other := range []uint64{before, counts() + 1, counts() - 1<<32} {
			if err := holds(other); !errors.Is(err, tpm2.TPMRCPolicy) {
				t.Errorf("after a %s, counts %#x where the TPM has %#x: %v; want TPM_RC_POLICY", start.name, other, counts(), err)
			}
		}
	}
}
