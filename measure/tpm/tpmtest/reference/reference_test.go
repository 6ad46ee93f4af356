//go:build cgo

package reference_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest/reference"
)

// TestBoot goes through one boot's use of the TPM, then through the next one's.
func TestBoot(t *testing.T) {
	tp := reference.Start(t)
	store := floor.Store{TPM: tp.TPM}
	if err := store.Provision(t.Context(), floor.Record{ImageVersion: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Raise(t.Context(), floor.Record{ImageVersion: 2}); err != nil {
		t.Fatal(err)
	}
	if err := store.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Raise(t.Context(), floor.Record{ImageVersion: 3}); !errors.Is(err, floor.ErrClosed) {
		t.Errorf("Raise() of a locked floor: %v; want ErrClosed", err)
	}
	recorder, err := measure.NewRecorder(tp.TPM)
	if err != nil {
		t.Fatal(err)
	}
	if err := recorder.Extend(t.Context(), event.PCRImage, event.CapRecord()); err != nil {
		t.Fatal(err)
	}
	entries, err := cel.Parse(recorder.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range recorder.Banks() {
		want, err := tp.ReadPCRs(t.Context(), bank, []int{event.PCRImage})
		if err != nil {
			t.Fatal(err)
		}
		got, err := cel.Replay(nil, entries, bank)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, map[int][]byte(got)); diff != "" {
			t.Errorf("PCRs (-TPM +log):\n%s", diff)
		}
	}
	if err := store.Repair(t.Context(), floor.Record{}); !errors.Is(err, floor.ErrClosed) {
		t.Errorf("Repair() by an OS: %v; want ErrClosed", err)
	}
	if err := tp.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	tp.Reset(t)
	if _, err := store.Raise(t.Context(), floor.Record{ImageVersion: 1}); !errors.Is(err, floor.ErrRollback) {
		t.Errorf("Raise() to an older image: %v; want ErrRollback", err)
	}
	if _, err := store.Raise(t.Context(), floor.Record{ImageVersion: 3}); err != nil {
		t.Errorf("Raise() after a reset: %v", err)
	}
}
