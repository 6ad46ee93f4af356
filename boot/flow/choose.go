package flow

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errNothing is the end of a round in which no source could be booted.
var errNothing = errors.New("no source could be booted")

// choose goes round all sources until one has given an image that may be
// booted. Nothing has been extended into the image PCR when it returns.
func (b *Boot) choose(ctx context.Context) (*Candidate, error) {
	for n := 1; ; n++ {
		last := b.End != EndRetry && n >= b.Rounds
		next := "all of it again after a pause"
		if last {
			next = string(b.End)
		}
		c, err := b.round(ctx, next)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if last {
			return nil, err
		}
		pause := backoff(n)
		b.Reporter.Waiting(pause, n+1)
		if err := b.Sleep(ctx, pause); err != nil {
			return nil, err
		}
		b.online = false
	}
}

// round is one attempt at everything before the measurement. What succeeded in
// an earlier round is not done again, except for the network: it may be why the
// round failed. What comes after it is for the console.
func (b *Boot) round(ctx context.Context, after string) (*Candidate, error) {
	if err := b.prepare(ctx); err != nil {
		return nil, b.fail(ctx, StagePrepare, err, after)
	}
	if err := b.connect(ctx); err != nil {
		f := b.fail(ctx, StageNetwork, err, b.withoutNetwork(after))
		if b.Attester != nil {
			// Without a network nothing will be released: measuring an image
			// now would only end in a reset.
			return nil, f
		}
	}
	if err := b.askTime(ctx); err != nil {
		return nil, b.fail(ctx, StageHello, err, after)
	}
	errs := []error{errNothing}
	for i, s := range b.Sources {
		if s.NeedsNetwork() && !b.online {
			continue
		}
		next := "the next source"
		if i == len(b.Sources)-1 {
			next = after
		}
		c, err := b.try(ctx, s)
		if err == nil {
			return c, nil
		}
		errs = append(errs, b.fail(ctx, StageFetch, err, next))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, &Failure{StageFetch, errors.Join(errs...)}
}

func (b *Boot) withoutNetwork(after string) string {
	if b.Attester != nil {
		return after
	}
	return "sources that need no network"
}

// prepare makes the TPM ready and measures the host config, both once.
func (b *Boot) prepare(ctx context.Context) error {
	if b.hostRead {
		return nil
	}
	b.Reporter.Stage(StagePrepare)
	ctx, cancel := context.WithTimeout(ctx, tpmTimeout)
	defer cancel()
	if err := b.Measurer.Ready(ctx); err != nil {
		return err
	}
	if b.Host == nil {
		b.hostRead = true
		return nil
	}
	raw, place, err := b.Host(ctx)
	if err != nil {
		return err
	}
	if raw == nil {
		b.Reporter.Info("no host config: every Ethernet link, DHCP")
		b.hostRead = true
		return nil
	}
	// Measure before parse.
	if err := b.Measurer.Extend(ctx, b.PCRAuthority, hostRecord(raw)); err != nil {
		return fmt.Errorf("measure the host config: %w", err)
	}
	b.Reporter.Info("host config from " + place)
	b.host, b.hostRead = raw, true
	return nil
}

func (b *Boot) connect(ctx context.Context) error {
	if b.online {
		return nil
	}
	b.Reporter.Stage(StageNetwork)
	if err := b.Network.Up(ctx, b.host); err != nil {
		return err
	}
	b.online = true
	return nil
}

// askTime asks attestd for the signed time. Without an answer the weaker clock
// will do, and is measured, unless the site's policy forbids it.
func (b *Boot) askTime(ctx context.Context) error {
	if b.Attester != nil && b.online && b.hello == nil {
		b.Reporter.Stage(StageHello)
		ctx, cancel := context.WithTimeout(ctx, helloTimeout)
		defer cancel()
		h, err := b.Attester.Hello(ctx)
		if err == nil {
			err = b.Clock.Signed(h.Time)
		}
		if err != nil {
			b.Reporter.Warn(fmt.Errorf("no signed time: %w", err))
		} else {
			b.Reporter.Info("signed time " + h.Time.UTC().Format(time.DateTime))
			b.hello = h
		}
	}
	return b.Clock.Check()
}

// try is one attempt at one source: an image that was fetched and verified,
// and is not below the floor, which is then raised and locked.
func (b *Boot) try(ctx context.Context, s Source) (_ *Candidate, err error) {
	b.Reporter.Stage(StageFetch)
	b.Reporter.Info(s.String())
	fetchCtx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	c, err := fetch(fetchCtx, s)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", s, err)
	}
	defer func() {
		if err != nil {
			_ = c.Image.Close()
		}
	}()
	// An image that cannot be measured must fail while others can be tried.
	if _, err := c.Image.Records(); err != nil {
		return nil, fmt.Errorf("%v: %w", s, err)
	}
	b.Reporter.Info("verified " + c.Ref)
	if err := b.raise(ctx, c); err != nil {
		return nil, &Failure{StageFloor, fmt.Errorf("%v: %w", s, err)}
	}
	return c, nil
}

// fetch makes an error of a panic. Parsers of many authors read what a source sends; one that can be made to panic
// must not let a bad mirror reset the machine again and again while another source has the image. Nothing is
// measured yet, and what the source held is dropped with it.
func fetch(ctx context.Context, s Source) (c *Candidate, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("a parser failed: %v", p)
		}
	}()
	return s.Fetch(ctx)
}
