package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	probeSize   = 4 << 20  // first request for a large blob: finds out how fast the link is
	minSegment  = 1 << 20  // smallest request of several for one blob
	maxSegment  = 32 << 20 // largest
	segmentTime = 4 * time.Second
	// progressSize is what a request must bring to count as progress although
	// it failed in the end.
	progressSize = 64 << 10
	// maxRestarts bounds how often one server may make us receive again what we
	// have: by sending the whole blob instead of its rest, or by a 416.
	maxRestarts = 3
)

var (
	// errDrop asks for the partial to be dropped and begun again.
	errDrop = errors.New("partial dropped")
	// errAgain says that it was.
	errAgain = errors.New("blob begun again")
)

// transfer is the work of completing one partial.
type transfer struct {
	f    *Fetcher
	part *partial

	mu     sync.Mutex
	states []state // one a mirror
	solo   int     // index of the only mirror to use; -1 for all
	rate   float64 // bytes/s of one request; 0 is not known
	whole  bool    // the server sends whole blobs only: no parallel requests
	extra  int     // workers beyond the first
}

// state is what a transfer knows of a mirror.
type state struct {
	last     error     // last failure
	failedAt time.Time // when
	failures int       // in a row
	restarts int
	gaveWay  bool // to another, because it was slow
	gone     bool // given up
}

func newTransfer(f *Fetcher, p *partial) *transfer {
	return &transfer{f: f, part: p, states: make([]state, len(f.mirrors)), solo: -1}
}

// run ends when the partial is verified or no mirror is left.
func (t *transfer) run(ctx context.Context) error {
	for {
		if err := t.attempt(ctx); err != errAgain {
			return err
		}
	}
}

// attempt receives what is missing. It returns nil when the partial is verified,
// and errAgain when all of it was wrong and has to be received once more.
func (t *transfer) attempt(ctx context.Context) error {
	err := t.receive(ctx)
	switch {
	case errors.Is(err, errDrop):
	case err != nil:
		return err
	case t.part.verify():
		t.f.opt.Cache.finish(t.part, t.f.opt.Warn)
		t.f.meter.flush()
		return nil
	default:
		t.blame()
	}
	t.drop()
	return errAgain
}

// drop forgets everything that was received.
func (t *transfer) drop() {
	t.f.meter.add(-t.part.have())
	t.part.reset()
	t.f.opt.Cache.drop(t.part.blob, t.f.opt.Warn)
}

// receive fills and hashes the partial.
func (t *transfer) receive(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	keep := t.f.opt.Cache.writer(t.part, t.f.opt.Warn)
	defer keep.close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := t.part.follow(ctx, keep); err != nil {
			cancel(err)
		}
	})
	if err := t.work(ctx, &wg, true); err != nil {
		cancel(err)
	}
	wg.Wait()
	if t.part.complete() {
		return nil // a cancellation that came too late
	}
	return context.Cause(ctx)
}

// work asks for one span after the other. The first worker of a transfer
// outlives failures; the others are there only as long as all goes well.
func (t *transfer) work(ctx context.Context, wg *sync.WaitGroup, first bool) error {
	for {
		i, err := t.pick(ctx)
		if err != nil {
			return err
		}
		select {
		case t.f.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c := t.part.plan.claim(t.segment())
		if c == nil {
			<-t.f.slots
			if !first || !t.part.plan.wait(ctx) {
				return nil
			}
			continue
		}
		started := time.Now()
		gained, err := t.request(ctx, i, c)
		t.part.plan.release(c)
		<-t.f.slots
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errDrop):
			return err
		case errors.Is(err, ErrSlow):
			if t.giveWay(i, err, first) {
				return errDrop
			}
		default:
			t.settle(i, started, gained, err)
		}
		if err != nil && !first {
			return nil
		}
		if err == nil {
			t.widen(ctx, wg)
		}
	}
}

// segment is the size of the next request: all that is left if that takes
// little time or can not be divided, else a few seconds' worth.
func (t *transfer) segment() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	left := t.part.plan.left()
	switch {
	case t.whole || t.f.opt.Streams == 1:
		return left
	case t.rate == 0:
		if left <= 2*probeSize {
			return left
		}
		return probeSize
	case t.quick(left):
		return left
	}
	most := int64(maxSegment)
	if ahead := t.part.ahead; ahead > 0 {
		most = max(minSegment, ahead/int64(t.f.opt.Streams))
	}
	return min(most, max(minSegment, int64(t.rate*segmentTime.Seconds())))
}

// quick reports whether one request would bring left bytes soon. t.mu is held.
func (t *transfer) quick(left int64) bool {
	return float64(left) <= t.rate*segmentTime.Seconds()
}

// widen adds workers if the link is slow and the server sends ranges: several
// connections share a long or lossy link better than one.
func (t *transfer) widen(ctx context.Context, wg *sync.WaitGroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.whole || t.rate == 0 || t.quick(t.part.plan.left()) {
		return
	}
	for ; t.extra < t.f.opt.Streams-1; t.extra++ {
		wg.Go(func() {
			_ = t.work(ctx, wg, false) // the first worker meets the error too
			t.mu.Lock()
			t.extra--
			t.mu.Unlock()
		})
	}
}

// pick returns the first mirror that may be asked now, waiting until there is
// one. For a rest those that send whole blobs only come after the others, and a
// slow one that another is to relieve comes last.
func (t *transfer) pick(ctx context.Context) (int, error) {
	for {
		best, wait, rank := -1, time.Duration(0), 0
		t.mu.Lock()
		for i, m := range t.f.mirrors {
			if t.states[i].gone || t.solo >= 0 && t.solo != i {
				continue
			}
			w, r := m.wait(), t.rank(i)
			if best < 0 || w < wait || w == wait && r < rank {
				best, wait, rank = i, w, r
			}
		}
		t.mu.Unlock()
		if best < 0 {
			return -1, t.failure()
		}
		if wait == 0 {
			return best, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return -1, context.Cause(ctx)
		}
	}
}

// rank orders the mirrors that may be asked now. t.mu is held.
func (t *transfer) rank(i int) int {
	switch {
	case t.outpaced(i):
		return 2
	case t.part.have() > 0 && t.states[i].restarts > 0:
		return 1
	}
	return 0
}

// settle notes how a request to mirror i ended.
func (t *transfer) settle(i int, started time.Time, gained int64, err error) {
	m := t.f.mirrors[i]
	t.mu.Lock()
	defer t.mu.Unlock()
	st := &t.states[i]
	if err == nil || gained >= progressSize {
		st.failures = 0
		m.succeeded()
	}
	if err == nil {
		return
	}
	st.last = err
	var status *StatusError
	isStatus := errors.As(err, &status)
	if errors.Is(err, ErrNoRange) || isStatus && status.permanent() {
		st.gone = true
		return
	}
	// Requests that fail together are one failure.
	if !st.failedAt.IsZero() && !started.After(st.failedAt) {
		return
	}
	st.failedAt = time.Now()
	st.failures++
	st.gone = st.failures >= t.f.opt.Attempts
	var retryAfter time.Duration
	if isStatus {
		retryAfter = status.RetryAfter
	}
	m.failed(retryAfter)
}

// giveWay notes that mirror i is too slow. It reports whether another has to
// begin again because it sends the whole blob alone; the first worker does that.
func (t *transfer) giveWay(i int, err error, first bool) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := &t.states[i]
	if !st.gaveWay {
		t.f.opt.Warn(fmt.Errorf("mirror %s: %w: trying another", t.f.mirrors[i], err))
	}
	st.last, st.gaveWay = err, true
	return first && t.nextSolo()
}

// blame decides what to do about content that is complete and wrong. If one
// mirror sent all of it, that one is given up. If the cache had a part in it, the
// cache's is dropped and no more is known. If several mirrors had, from now on one
// at a time has to send the whole blob.
func (t *transfer) blame() {
	t.mu.Lock()
	defer t.mu.Unlock()
	mirrors := slices.DeleteFunc(slices.Clone(t.part.senders), func(s int) bool { return s == fromCache })
	alone := len(t.part.senders) == 1 && len(mirrors) == 1
	if alone {
		t.states[mirrors[0]].gone = true
		t.states[mirrors[0]].last = ErrDigest
	} else {
		t.f.opt.Warn(fmt.Errorf("blob %s, put together from several sources: %w: starting again", t.part.blob.Digest, ErrDigest))
	}
	if len(mirrors) > 1 && t.solo < 0 {
		t.solo = 0
		for i := range t.states {
			t.states[i].gaveWay = false // starting again is another matter
		}
	}
	t.nextSolo()
}

// nextSolo moves a one-mirror transfer on to the next mirror: one that has not
// given way, if there is one. It reports false if the transfer is not of that
// sort, or there is none. t.mu is held.
func (t *transfer) nextSolo() bool {
	if t.solo < 0 {
		return false
	}
	next := -1
	for i, st := range t.states {
		if !st.gone && (next < 0 || t.states[next].gaveWay && !st.gaveWay) {
			next = i
		}
	}
	if next < 0 {
		return false
	}
	t.solo = next
	return true
}

// failure is what pick returns when no mirror is left: the end, or errDrop if
// another mirror may try to send the whole blob alone.
func (t *transfer) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nextSolo() {
		return errDrop
	}
	e := &Error{}
	for i, m := range t.f.mirrors {
		e.Mirrors = append(e.Mirrors, MirrorError{m.String(), t.states[i].last})
	}
	return e
}
