package flow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sealboot/sealboot/measure/event"
)

// commit measures c and takes it to kexec. From its first extend there is no
// way back: every failure ends in a reset.
func (b *Boot) commit(ctx context.Context, c *Candidate) (Outcome, error) {
	b.Reporter.Stage(StageMeasure)
	if err := b.measure(ctx, c); err != nil {
		return b.abandon(ctx, StageMeasure, err)
	}
	firmware, err := b.Measurer.FirmwareLog(ctx)
	if err != nil {
		return b.abandon(ctx, StageMeasure, err)
	}
	release, err := b.attest(ctx, firmware)
	if err != nil {
		return b.abandon(ctx, StageAttest, err)
	}
	if release != nil {
		defer release.Wipe()
	}
	if err := b.load(ctx, c, firmware, release); err != nil {
		return b.abandon(ctx, StageLoad, err)
	}
	if release != nil {
		release.Wipe() // the loaded kernel has its own copy
	}
	if err := b.leave(ctx); err != nil {
		return b.abandon(ctx, StageKexec, err)
	}
	return Kexec, nil
}

// measure extends what will run, then why it may.
func (b *Boot) measure(ctx context.Context, c *Candidate) error {
	ctx, cancel := context.WithTimeout(ctx, tpmTimeout)
	defer cancel()
	image, err := c.Image.Records()
	if err != nil {
		return err
	}
	b.committed = true
	for _, r := range image {
		if err := b.Measurer.Extend(ctx, b.PCRImage, r); err != nil {
			return fmt.Errorf("measure the image: %w", err)
		}
	}
	for _, r := range b.authority(c) {
		if err := b.Measurer.Extend(ctx, b.PCRAuthority, r); err != nil {
			return fmt.Errorf("measure the authority: %w", err)
		}
	}
	b.Reporter.Info(fmt.Sprintf("%s %s: %d events", image[0].Name, short(image[0].SHA256), len(image)))
	return nil
}

// authority is everything that says why c may run, in its fixed order.
func (b *Boot) authority(c *Candidate) []event.Record {
	records := append([]event.Record{b.SiteConfig}, c.Provenance...)
	if b.ReleaseKey != nil {
		records = append(records, *b.ReleaseKey)
	}
	records = append(records, b.Clock.Record())
	if b.floorRecord != nil {
		records = append(records, *b.floorRecord)
	}
	return records
}

// attest asks for the release of this very image until attestd has decided.
func (b *Boot) attest(ctx context.Context, firmware []byte) (Release, error) {
	if b.Attester == nil {
		return nil, nil
	}
	b.Reporter.Stage(StageAttest)
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, attestTimeout)
		r, err := b.Attester.Attest(attempt, b.Measurer.Log(), firmware)
		cancel()
		if err == nil {
			b.Reporter.Info("released")
			return r, nil
		}
		if errors.Is(err, ErrDenied) || n == b.Attempts || ctx.Err() != nil {
			return nil, err
		}
		b.Reporter.Warn(fmt.Errorf("attempt %d of %d: %w", n, b.Attempts, err))
		if err := b.Sleep(ctx, backoff(n)); err != nil {
			return nil, err
		}
	}
}

func (b *Boot) load(ctx context.Context, c *Candidate, firmware []byte, release Release) error {
	b.Reporter.Stage(StageLoad)
	log, err := b.Measurer.LogWith(b.PCRImage, event.CapRecord())
	if err != nil {
		return err
	}
	return c.Image.Load(ctx, Handover{Log: log, Firmware: firmware, Release: release})
}

// leave makes the machine ready for its next kernel. The cap comes first: from
// then on no one can obtain a release.
func (b *Boot) leave(ctx context.Context) error {
	b.Reporter.Stage(StageKexec)
	ctx, cancel := context.WithTimeout(ctx, tpmTimeout)
	defer cancel()
	if err := b.Measurer.Extend(ctx, b.PCRImage, event.CapRecord()); err != nil {
		return fmt.Errorf("extend the cap: %w", err)
	}
	if err := b.Measurer.Flush(ctx); err != nil {
		return err
	}
	return b.Network.Down()
}

// abandon ends a boot whose image was measured: no one may use its PCRs.
func (b *Boot) abandon(ctx context.Context, s Stage, err error) (Outcome, error) {
	f := b.fail(ctx, s, err, "reset, since an image was measured")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tpmTimeout)
	defer cancel()
	if err := b.Measurer.Abandon(ctx, b.PCRImage, event.Record{Type: event.TypeFailed, Name: string(f.Stage)}); err != nil {
		// The reset clears the PCRs all the same.
		return Reboot, errors.Join(f, fmt.Errorf("extend the failed marker: %w", err))
	}
	return Reboot, f
}

// raise checks c against the floor and moves it.
func (b *Boot) raise(ctx context.Context, c *Candidate) error {
	if b.Floor == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tpmTimeout)
	defer cancel()
	if err := b.Floor.Check(ctx, c, b.hello); err != nil {
		return err
	}
	r, err := b.Floor.Raise(ctx, c, b.hello)
	if err != nil {
		return err
	}
	b.floorRecord = &r
	return nil
}

func hostRecord(raw []byte) event.Record {
	return FileRecord(event.TypeHostConfig, raw)
}

// FileRecord is the record of a configuration file as it was read.
func FileRecord(t event.Type, raw []byte) event.Record {
	sum := sha256.Sum256(raw)
	return event.Record{Type: t, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(raw))}
}

func short(sha256 string) string { return sha256[:min(12, len(sha256))] }
