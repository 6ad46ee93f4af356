package measure_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

var kernel = event.Record{Type: event.TypeArtifact, Name: event.RoleKernel, Size: 7}

func newRecorder(t *testing.T, tp *tpm.TPM) *measure.Recorder {
	t.Helper()
	r, err := measure.NewRecorder(tp)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checkReplay compares the log's replay with the TPM in all banks.
func checkReplay(t *testing.T, tp *tpm.TPM, log []byte, wantEntries int) {
	t.Helper()
	entries, err := cel.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != wantEntries {
		t.Errorf("%d entries in the log, want %d", len(entries), wantEntries)
	}
	banks, err := tp.Banks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range banks {
		want, err := tp.ReadPCRs(t.Context(), bank, []int{12, 13})
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
}

func TestRecorder(t *testing.T) {
	for _, banks := range [][]tpm2.TPMAlgID{
		{tpm2.TPMAlgSHA256},
		{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384},
		{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512},
	} {
		tp := tpmtest.Start(t, tpmtest.Options{Banks: banks}).TPM
		r := newRecorder(t, tp)
		if diff := cmp.Diff(banks, r.Banks(), cmp.Transformer("set", asSet)); diff != "" {
			t.Errorf("Banks (-want +got):\n%s", diff)
		}
		for _, index := range []int{13, 12, 13} {
			if err := r.Extend(t.Context(), index, kernel); err != nil {
				t.Fatal(err)
			}
		}
		checkReplay(t, tp, r.Log(), 3)

		withCap, err := r.LogWith(12, event.CapRecord())
		if err != nil {
			t.Fatal(err)
		}
		checkReplay(t, tp, r.Log(), 3) // nothing was measured yet
		if err := r.Extend(t.Context(), 12, event.CapRecord()); err != nil {
			t.Fatal(err)
		}
		checkReplay(t, tp, withCap, 4)
		if diff := cmp.Diff(withCap, r.Log()); diff != "" {
			t.Errorf("the log after the cap is not the one that was handed over:\n%s", diff)
		}
	}
}

func asSet(banks []tpm2.TPMAlgID) map[tpm2.TPMAlgID]bool {
	set := make(map[tpm2.TPMAlgID]bool)
	for _, b := range banks {
		set[b] = true
	}
	return set
}

// faulty is a TPM whose every command from a certain one on fails.
type faulty struct {
	*tpm.TPM
	good     int
	response []byte
}

var errInjected = errors.New("injected")

func (f *faulty) Write(b []byte) (int, error) {
	if f.good--; f.good < 0 {
		return 0, errInjected
	}
	var err error
	f.response, err = f.Send(b)
	return len(b), err
}

func (f *faulty) Read(b []byte) (int, error) { return copy(b, f.response), nil }

func TestRecorderFailsClosed(t *testing.T) {
	for good := range 3 { // the capability query of NewRecorder, then that of Extend, then the extend
		inner := tpmtest.Start(t, tpmtest.Options{}).TPM
		r, err := measure.NewRecorder(tpm.New("faulty", &faulty{TPM: inner, good: good}))
		if good == 0 {
			if !errors.Is(err, errInjected) {
				t.Errorf("NewRecorder() error = %v; want the injected one", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Extend(t.Context(), 12, kernel); !errors.Is(err, errInjected) {
			t.Errorf("good %d: Extend() error = %v; want the injected one", good, err)
		}
		if len(r.Log()) != 0 {
			t.Error("an event that failed is in the log")
		}
		if err := r.Extend(t.Context(), 12, kernel); !errors.Is(err, measure.ErrPoisoned) || !errors.Is(err, errInjected) {
			t.Errorf("Extend() after a failure: %v; want ErrPoisoned and the cause", err)
		}
		if _, err := r.LogWith(12, event.CapRecord()); !errors.Is(err, measure.ErrPoisoned) {
			t.Errorf("LogWith() after a failure: %v; want ErrPoisoned", err)
		}
	}
}

func TestRecorderPoisonedByBadRecord(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{}).TPM
	r := newRecorder(t, tp)
	if err := r.Extend(t.Context(), 12, event.Record{}); err == nil {
		t.Error("measured a record without a type")
	}
	if err := r.Extend(t.Context(), 12, kernel); !errors.Is(err, measure.ErrPoisoned) {
		t.Errorf("Extend() after a bad record: %v; want ErrPoisoned", err)
	}
}

func TestAbandon(t *testing.T) {
	tp := tpmtest.Start(t, tpmtest.Options{}).TPM
	r := newRecorder(t, tp)
	if err := r.Extend(t.Context(), 12, event.Record{}); err == nil {
		t.Fatal("measured a record without a type")
	}
	failed := event.Record{Type: event.TypeFailed}
	for range 2 {
		if err := r.Abandon(t.Context(), 12, failed); err != nil {
			t.Fatal(err)
		}
	}
	got, err := tp.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{12})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := cel.Digest(tpm2.TPMAlgSHA256, failed)
	if err != nil {
		t.Fatal(err)
	}
	values := pcr.Values{}
	for range 2 {
		if err := values.Extend(tpm2.TPMAlgSHA256, 12, digest); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[int][]byte(values), got); diff != "" {
		t.Errorf("PCR 12 (-want +got):\n%s", diff)
	}
	if err := r.Extend(t.Context(), 12, kernel); !errors.Is(err, measure.ErrPoisoned) {
		t.Errorf("Extend() after Abandon: %v; want ErrPoisoned", err)
	}
}
