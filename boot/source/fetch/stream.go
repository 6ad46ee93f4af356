package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
)

const (
	// streamWindow is how much of a streamed blob is in memory at most, in
	// bytes, besides the buffers of its requests.
	streamWindow = 32 << 20
	// streamStep is how much of it must be free before more is asked for, or a
	// slow taker would mean many small requests.
	streamStep = 8 << 20
)

// Stream gives the content of b to take while it arrives, in order, and keeps
// 32 MiB of it in memory at most.
//
// Only its end shows whether it is b's content: the reader returns io.EOF
// then, or an error. Take must use nothing of what it was given before Stream
// has returned nil. When what came was wrong, and another mirror or another
// attempt can do better, take is called again, from the first byte on. If it
// fails, the rest is fetched all the same, because what it was given may
// be at fault. It runs on the caller's goroutine.
//
// The error is like that of [Fetcher.Blob], or take's own. What was streamed is
// fetched again by the next call, unless there is a cache.
func (f *Fetcher) Stream(ctx context.Context, b Blob, take func(io.Reader) error) (err error) {
	if err := b.check(); err != nil {
		return err
	}
	e, err := f.enter(ctx, b)
	if err != nil {
		return err
	}
	defer func() { e.turn <- struct{}{} }()
	if e.part != nil { // an earlier call has it in memory, or some of it
		if err := f.complete(ctx, e, b); err != nil {
			return fmt.Errorf("fetching %s: %w", b.Digest, err)
		}
		return take(io.NewSectionReader(e.part.file, 0, b.Size))
	}
	if err := checkRoom(f.opt.Room, min(b.Size, streamWindow)); err != nil {
		return err
	}
	part, err := newPartial(b, f.opt.Cache.ahead())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, part.file.Close()) }()
	f.meter.expect(b)
	t := newTransfer(f, part)
	for {
		if err = t.pass(ctx, take); err != errAgain {
			break
		}
	}
	if err != nil {
		f.meter.drop(b, part.have())
		return fmt.Errorf("fetching %s: %w", b.Digest, err)
	}
	return nil
}

// pass streams the blob from its first byte on.
func (t *transfer) pass(ctx context.Context, take func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	t.part.out = w
	t.part.reset()
	var received error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		received = t.fill(ctx)
		w.CloseWithError(received) // io.EOF without an error
	}()
	defer func() { // also when take panics
		cancel()
		r.Close()
		<-ended
	}()
	taken := take(r)
	_, _ = io.Copy(io.Discard, r) // received says how that ended
	<-ended
	if received != nil {
		return received
	}
	return taken
}

// fill brings all of the blob, from the cache as far as that goes.
func (t *transfer) fill(ctx context.Context) error {
	if err := t.f.opt.Cache.stream(ctx, t.part, t.f.opt.Warn); err != nil {
		return err
	}
	t.f.meter.add(t.part.have())
	return t.attempt(ctx)
}
