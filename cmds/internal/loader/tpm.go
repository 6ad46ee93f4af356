package loader

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/measure"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/fwlog/securityfs"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// errUsed is the error of a TPM that an earlier loader has used in this boot.
var errUsed = errors.New("the image PCR is not zero: something was measured there since the machine was reset; power-cycle it, and give the loader no other stub or command line")

// errNotReady is the error of a TPM that was never opened.
var errNotReady = errors.New("the TPM was not opened")

// tpmDevice is a flow.Measurer that opens the TPM when the boot asks for it.
type tpmDevice struct {
	addr     string
	imagePCR int
	clock    *clock.Clock
	console  *console.Console
	readLog  func(ctx context.Context) ([]byte, error)

	tpm      *tpm.TPM
	recorder *measure.Recorder
}

var _ flow.Measurer = (*tpmDevice)(nil)

// Ready opens the TPM, makes sure that nothing was measured yet, and takes the
// time floor.
func (d *tpmDevice) Ready(ctx context.Context) error {
	if d.recorder != nil {
		return nil
	}
	t, err := tpm.Open(ctx, d.addr)
	if err != nil {
		return err
	}
	r, err := measure.NewRecorder(t)
	if err == nil {
		err = d.unused(ctx, t, r)
	}
	if err != nil {
		return errors.Join(err, t.Close())
	}
	d.tpm, d.recorder = t, r
	// A floor that cannot be read is judged with the candidate, not here.
	if f, err := (floor.Store{TPM: t, PCR: d.imagePCR}).Read(ctx); err == nil && !f.Time.IsZero() {
		d.clock.Floor(f.Time)
	}
	return nil
}

func (d *tpmDevice) unused(ctx context.Context, t *tpm.TPM, r *measure.Recorder) error {
	for _, bank := range r.Banks() {
		values, err := t.ReadPCRs(ctx, bank, []int{d.imagePCR})
		if err != nil {
			return err
		}
		if !bytes.Equal(values[d.imagePCR], pcr.Zero(bank)) {
			return fmt.Errorf("PCR %d: %w", d.imagePCR, errUsed)
		}
	}
	return nil
}

func (d *tpmDevice) Extend(ctx context.Context, index int, rec event.Record) error {
	if d.recorder == nil {
		return errNotReady
	}
	return d.recorder.Extend(ctx, index, rec)
}

func (d *tpmDevice) Abandon(ctx context.Context, index int, rec event.Record) error {
	if d.recorder == nil {
		return errNotReady
	}
	return d.recorder.Abandon(ctx, index, rec)
}

func (d *tpmDevice) Log() []byte { return d.recorder.Log() }

func (d *tpmDevice) LogWith(index int, rec event.Record) ([]byte, error) {
	return d.recorder.LogWith(index, rec)
}

// FirmwareLog is empty for a machine whose firmware measures nothing: what that
// means is for attestd to judge.
func (d *tpmDevice) FirmwareLog(ctx context.Context) ([]byte, error) {
	read := d.readLog
	if read == nil {
		read = securityfs.Read
	}
	b, err := read(ctx)
	if errors.Is(err, fwlog.ErrNoLog) {
		d.console.Warn(err)
		return nil, nil
	}
	return b, err
}

func (d *tpmDevice) Flush(ctx context.Context) error { return d.tpm.Flush(ctx) }

func (d *tpmDevice) close() error {
	if d.tpm == nil {
		return nil
	}
	return d.tpm.Close()
}

// noTPM is a flow.Measurer for a machine without a TPM.
type noTPM struct{}

var _ flow.Measurer = noTPM{}

func (noTPM) Ready(context.Context) error                      { return nil }
func (noTPM) Extend(context.Context, int, event.Record) error  { return nil }
func (noTPM) Abandon(context.Context, int, event.Record) error { return nil }
func (noTPM) Log() []byte                                      { return nil }
func (noTPM) LogWith(int, event.Record) ([]byte, error)        { return nil, nil }
func (noTPM) FirmwareLog(context.Context) ([]byte, error)      { return nil, nil }
func (noTPM) Flush(context.Context) error                      { return nil }
