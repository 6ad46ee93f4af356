//go:build cgo

// Package reference gives a test the TPM of the specification's authors, compiled
// into the test: a second implementation next to the emulator of package tpmtest.
// It has no EK certificate, and one process can have only one at a time.
package reference

import (
	"testing"

	"github.com/google/go-tpm-tools/simulator"

	"github.com/sealboot/sealboot/measure/tpm"
)

// TPM is a running TPM.
type TPM struct {
	*tpm.TPM
	simulator *simulator.Simulator
}

// Start runs a TPM until the test ends.
func Start(t testing.TB) *TPM {
	t.Helper()
	s, err := simulator.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &TPM{tpm.New("reference", s), s}
}

// Reset turns the TPM off and on. What NV holds stays.
func (tp *TPM) Reset(t testing.TB) {
	t.Helper()
	if err := tp.simulator.Reset(); err != nil {
		t.Fatal(err)
	}
}
