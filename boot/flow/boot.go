package flow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pause"
)

// End says what happens when no source could be booted.
type End string

const (
	EndReboot   End = "reboot"
	EndRetry    End = "retry"
	EndPoweroff End = "poweroff"
	EndShell    End = "shell"
)

// Deadlines of single steps. What moves many bytes has none here: it ends when
// nothing arrives.
const (
	helloTimeout  = time.Minute
	attestTimeout = 3 * time.Minute // one attempt; a slow TPM needs its time
	reportTimeout = 5 * time.Second
	tpmTimeout    = 3 * time.Minute
	fetchTimeout  = 12 * time.Hour // for a server that drips

	defaultAttempts = 8
	defaultRounds   = 5
)

// A Boot is the wiring of one boot. Host, Attester and Floor may be nil, the
// others not.
type Boot struct {
	// Host finds the host config; nil bytes mean that there is none.
	Host     func(ctx context.Context) (raw []byte, place string, err error)
	Network  Network
	Clock    Clock
	Attester Attester // nil: no one to attest to, nothing is released
	Sources  []Source
	Floor    Floor // nil: the machine has none
	Measurer Measurer
	Reporter Reporter

	// Authority are the records that say whose loader this is; they go
	// around the provenance: SiteConfig before it, ReleaseKey (if any) after.
	SiteConfig event.Record
	ReleaseKey *event.Record

	PCRImage, PCRAuthority int // 0 means 12 and 13

	Rounds   int // over all sources before End; 0 means 5
	Attempts int // at the release, before the reset; 0 means 8
	End      End // empty means EndReboot

	// Sleep waits between attempts; nil means the real thing.
	Sleep func(ctx context.Context, d time.Duration) error

	host        []byte // host config, when it was measured
	hostRead    bool
	online      bool
	hello       *Hello
	floorRecord *event.Record // of the candidate chosen last
	committed   bool          // something may be in the image PCR
	lastReport  string
}

// Committed reports whether the boot went so far that only a reset can follow.
func (b *Boot) Committed() bool { return b.committed }

// Run boots: it returns when there is nothing left to do here but the outcome.
// The error says why the outcome is not Kexec.
func (b *Boot) Run(ctx context.Context) (Outcome, error) {
	b.setDefaults()
	c, err := b.choose(ctx)
	if err != nil {
		return b.end(ctx, err)
	}
	defer c.Image.Close()
	return b.commit(ctx, c)
}

func (b *Boot) setDefaults() {
	if b.PCRImage == 0 {
		b.PCRImage = event.PCRImage
	}
	if b.PCRAuthority == 0 {
		b.PCRAuthority = event.PCRAuthority
	}
	if b.Rounds == 0 {
		b.Rounds = defaultRounds
	}
	if b.Attempts == 0 {
		b.Attempts = defaultAttempts
	}
	if b.End == "" {
		b.End = EndReboot
	}
	if b.Sleep == nil {
		b.Sleep = pause.For
	}
}

// end is the configured end of a boot that measured no image.
func (b *Boot) end(ctx context.Context, cause error) (Outcome, error) {
	switch b.End {
	case EndPoweroff:
		return Poweroff, cause
	case EndShell:
		// Anyone who has the shell must not pass for a loader that booted.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tpmTimeout)
		defer cancel()
		if err := b.Measurer.Abandon(ctx, b.PCRImage, event.Record{Type: event.TypeShell}); err != nil {
			err = fmt.Errorf("extend the shell marker: %w", err)
			b.Reporter.Fail(&Failure{StageMeasure, err}, "reboot, since a shell must be measured")
			return Reboot, errors.Join(cause, err)
		}
		return Shell, cause
	}
	return Reboot, cause
}

// fail wraps err as the end of a stage, shows it and tells attestd.
func (b *Boot) fail(ctx context.Context, s Stage, err error, next string) *Failure {
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		f = &Failure{s, err}
	}
	b.Reporter.Fail(f, next)
	b.report(ctx, f)
	return f
}

// report tells attestd, once for each new reason. That attestd cannot be
// reached is often the very reason, so it is not mentioned.
func (b *Boot) report(ctx context.Context, f *Failure) {
	if b.Attester == nil || !b.online || f.Error() == b.lastReport {
		return
	}
	b.lastReport = f.Error()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	_ = b.Attester.Report(ctx, f.Stage, f.Err.Error())
}

const (
	firstPause = time.Second
	longPause  = 2 * time.Minute
)

// backoff is the pause after attempt n, counted from 1: doubled each time, and
// spread over its second half, so that a fleet that lost its power together
// does not come back together.
func backoff(n int) time.Duration {
	d := longPause
	if n < 8 {
		d = min(d, firstPause<<(n-1))
	}
	return d/2 + rand.N(d/2)
}
