// Package measure extends PCRs and keeps the log of it.
//
// Measuring comes before use: anyone who is about to parse or run something records
// it here first, and does not go on if that fails. The packages below this one
// define the events, read logs back, predict PCR values and keep the rollback
// floor.
package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/tpm"
)

// ErrPoisoned means that an earlier event could not be measured. Log and PCRs may
// differ since then, so nothing can be measured any more in this boot.
var ErrPoisoned = errors.New("an earlier measurement failed")

// Recorder extends every active PCR bank of a TPM and logs what it extended. It
// is safe for concurrent use.
type Recorder struct {
	tpm   *tpm.TPM
	banks []tpm2.TPMAlgID

	mu       sync.Mutex
	entries  uint64
	log      []byte
	poisoned error
}

// NewRecorder returns a Recorder with an empty log. It fails if the TPM has no
// active bank, or one whose hash we cannot compute.
func NewRecorder(t *tpm.TPM) (*Recorder, error) {
	banks, err := t.Banks(context.Background()) // bounded by tpm.CommandTimeout
	if err != nil {
		return nil, fmt.Errorf("prepare to measure: %w", err)
	}
	if _, err := cel.New(0, 0, event.CapRecord(), banks); err != nil {
		return nil, fmt.Errorf("prepare to measure: %w; deactivate that bank in the firmware setup", err)
	}
	return &Recorder{tpm: t, banks: banks}, nil
}

// Banks returns the banks that every event is extended into, in ascending order.
func (r *Recorder) Banks() []tpm2.TPMAlgID { return slices.Clone(r.banks) }

// Extend measures a record into a PCR and appends it to the log. If it fails for
// any reason, so does every later call, with [ErrPoisoned].
func (r *Recorder) Extend(ctx context.Context, index int, record event.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.extend(ctx, index, record); err != nil {
		if r.poisoned == nil {
			r.poisoned = err
		}
		return fmt.Errorf("measure %s into PCR %d: %w", record.Type, index, err)
	}
	return nil
}

func (r *Recorder) extend(ctx context.Context, index int, record event.Record) error {
	log, entry, err := r.next(index, record)
	if err != nil {
		return err
	}
	if err := r.tpm.Extend(ctx, index, entry.Digests); err != nil {
		return err
	}
	r.log, r.entries = log, r.entries+1
	return nil
}

// Abandon spoils a PCR with a record, so that nothing is released for it any more,
// and poisons the Recorder. It works on a poisoned one too, and the record is not
// in the log: this is for a boot that has failed, just before the machine resets.
func (r *Recorder) Abandon(ctx context.Context, index int, record event.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.poisoned == nil {
		r.poisoned = fmt.Errorf("the boot was abandoned: %s", record.Type)
	}
	entry, err := cel.New(r.entries, index, record, r.banks)
	if err == nil {
		err = r.tpm.Extend(ctx, index, entry.Digests)
	}
	if err != nil {
		return fmt.Errorf("abandon the boot, extend %s into PCR %d: %w", record.Type, index, err)
	}
	return nil
}

// Log returns a copy of the log so far, in CEL-TLV encoding.
func (r *Recorder) Log() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// LogWith returns the log as it will be after one more event, and measures
// nothing. The log that is handed to the operating system has to hold the cap,
// which can be extended only after that log was handed over.
func (r *Recorder) LogWith(index int, record event.Record) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	log, _, err := r.next(index, record)
	if err != nil {
		return nil, fmt.Errorf("log %s for PCR %d: %w", record.Type, index, err)
	}
	return log, nil
}

// next returns a copy of the log with one more entry, and that entry.
func (r *Recorder) next(index int, record event.Record) ([]byte, cel.Entry, error) {
	if r.poisoned != nil {
		return nil, cel.Entry{}, fmt.Errorf("%w: %w", ErrPoisoned, r.poisoned)
	}
	if r.entries >= cel.MaxEntries {
		return nil, cel.Entry{}, fmt.Errorf("the log is full at %d events", cel.MaxEntries)
	}
	entry, err := cel.New(r.entries, index, record, r.banks)
	if err != nil {
		return nil, cel.Entry{}, err
	}
	log, err := entry.AppendTo(slices.Clone(r.log))
	if err != nil {
		return nil, cel.Entry{}, err
	}
	if len(log) > cel.MaxSize {
		return nil, cel.Entry{}, fmt.Errorf("the log is full at %d bytes", cel.MaxSize)
	}
	return log, entry, nil
}
