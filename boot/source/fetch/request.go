package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	idleBytes     = 4 << 10 // what IdleTimeout must bring
	maxRetryAfter = 5 * time.Minute
	fillTime      = time.Second
)

// request fills c from mirror i as far as that goes, and returns how many
// bytes of use it brought.
func (t *transfer) request(ctx context.Context, i int, c *claim) (gained int64, err error) {
	m, b := t.f.mirrors[i], t.part.blob
	ctx, watch := newWatch(ctx, t.f.opt.IdleTimeout, &m.speed, func() error { return t.slow(i) })
	defer watch.stop()
	m.speed.count(1)
	defer m.speed.count(-1)
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx) // says more than "context canceled"
		}
	}()
	first, started := c.pos, time.Now()
	resp, err := m.Get(ctx, b, fmt.Sprintf("bytes=%d-%d", c.pos, c.end-1))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	whole, err := accept(resp, c.span, b.Size)
	if err != nil {
		return 0, t.refused(i, err)
	}
	if whole {
		if err := t.wholeBlob(i, c, watch.reader(resp.Body)); err != nil {
			return 0, err
		}
	}
	t.part.sentBy(i)
	err = t.receiveBody(ctx, c, resp.Body, watch)
	gained = c.pos - first
	if err == nil && !whole {
		t.measured(gained, time.Since(started))
	}
	return gained, err
}

// refused turns a 416 into errDrop, if what we have is from that mirror or
// from the cache: then it is likely to be wrong. It happens a bounded number of times.
func (t *transfer) refused(i int, err error) error {
	var status *StatusError
	if !errors.As(err, &status) || status.Code != http.StatusRequestedRangeNotSatisfiable {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	st := &t.states[i]
	if st.restarts++; st.restarts > maxRestarts {
		return fmt.Errorf("%w: %w", ErrNoRange, err)
	}
	if t.part.have() > 0 && t.part.onlyFrom(i) {
		st.last = err
		return errDrop
	}
	return err
}

// wholeBlob prepares for a body that starts at the blob's first byte although
// c starts later: what we have is read past, a bounded number of times.
func (t *transfer) wholeBlob(i int, c *claim, body io.Reader) error {
	t.mu.Lock()
	t.whole = true
	st := &t.states[i]
	if c.pos > 0 {
		st.restarts++
	}
	restarts := st.restarts
	t.mu.Unlock()
	if restarts > maxRestarts {
		return fmt.Errorf("%w: it has sent the whole blob %d times instead of its rest", ErrNoRange, restarts)
	}
	t.part.plan.extend(c)
	if _, err := io.CopyN(io.Discard, body, c.pos); err != nil {
		return fmt.Errorf("reading past the first %d bytes: %w", c.pos, cut(err))
	}
	return nil
}

// receiveBody writes the body to the partial until c is full.
func (t *transfer) receiveBody(ctx context.Context, c *claim, body io.Reader, watch *watch) error {
	body = watch.reader(body)
	buf := bufPool.Get().(*[]byte)
	defer func() { bufPool.Put(buf) }()
	for c.pos < c.end {
		room := t.part.plan.room(c.pos)
		if room <= 0 {
			if err := t.waitRoom(ctx, c.pos, watch); err != nil {
				return err
			}
			continue
		}
		want := min(bufSize-c.pos%bufSize, c.end-c.pos, room)
		n, err := fill(body, (*buf)[:want])
		if n > 0 {
			if _, err := t.part.file.WriteAt((*buf)[:n], c.pos); err != nil {
				return fmt.Errorf("storing: %w", err)
			}
			if t.part.offer(chunk{c.pos, buf, n}) {
				buf = bufPool.Get().(*[]byte)
			}
			t.part.plan.advance(c, int64(n))
			t.f.meter.add(int64(n))
		}
		if err != nil {
			return cut(err)
		}
	}
	return nil
}

// waitRoom waits until the reader of a stream has made room for the byte at pos.
func (t *transfer) waitRoom(ctx context.Context, pos int64, watch *watch) error {
	watch.pause()
	defer watch.resume()
	return t.part.plan.waitRoom(ctx, pos)
}

// fill reads until p is full, or for a while: what a slow link brings is to be
// shown, and kept, before there is much of it.
func fill(r io.Reader, p []byte) (n int, err error) {
	for start := time.Now(); n < len(p) && err == nil && time.Since(start) < fillTime; {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	if n == len(p) {
		err = nil // it comes again
	}
	return n, err
}

// cut gives the clean end of a body that is too short its name.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (t *transfer) measured(n int64, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n >= minSegment {
		t.rate = float64(n) / max(d.Seconds(), 1e-6)
	}
}

// accept checks that resp answers a request for want of a blob of size bytes.
// whole says that the body is the blob from its first byte.
func accept(resp *http.Response, want span, size int64) (whole bool, err error) {
	length := size
	switch resp.StatusCode {
	case http.StatusOK:
		whole = true
	case http.StatusPartialContent:
		got, total, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return false, err
		}
		if got != want || total != size {
			return false, fmt.Errorf("%w: bytes %d-%d of %d came instead of %d-%d of %d",
				ErrProtocol, got.pos, got.end-1, total, want.pos, want.end-1, size)
		}
		length = want.end - want.pos
	default:
		return false, &StatusError{Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return false, fmt.Errorf("%w: Content-Length is %d instead of %d", ErrProtocol, resp.ContentLength, length)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return false, fmt.Errorf("%w: unwanted Content-Encoding %q", ErrProtocol, enc)
	}
	return whole, nil
}

// parseContentRange reads "bytes first-last/total" (RFC 9110, 14.4). An unknown
// total ("*") is refused: the size is what shows that the blob is ours.
func parseContentRange(s string) (got span, total int64, err error) {
	bad := fmt.Errorf("%w: Content-Range %q", ErrProtocol, s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	rng, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(rng, "-")
	if !ok || !ok2 || !ok3 {
		return span{}, 0, bad
	}
	var nums [3]int64
	for i, f := range []string{first, last, size} {
		n, err := strconv.ParseUint(f, 10, 62)
		if err != nil {
			return span{}, 0, bad
		}
		nums[i] = int64(n)
	}
	if nums[0] > nums[1] || nums[1] >= nums[2] {
		return span{}, 0, bad
	}
	return span{nums[0], nums[1] + 1}, nums[2], nil
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3). A date is
// compared with the server's own Date: our clock may be wrong.
func retryAfter(h http.Header) time.Duration {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return min(maxRetryAfter, time.Duration(n)*time.Second)
	}
	until, err := http.ParseTime(s)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return min(maxRetryAfter, max(0, until.Sub(now)))
}

// slow is an error if mirror i should leave the rest of the blob to another.
func (t *transfer) slow(i int) error {
	m := t.f.mirrors[i]
	m.speed.count(0)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.outpaced(i) {
		return nil
	}
	rate, _ := m.speed.last()
	return fmt.Errorf("%w: %.1f KiB/s", ErrSlow, rate/1024)
}

// watch ends a request that stalls, or that slow has an error for.
type watch struct {
	timer  *time.Timer
	recent atomic.Int64 // bytes since the timer fired last
	paused atomic.Bool
	speed  *speed
	cancel context.CancelCauseFunc
}

func newWatch(ctx context.Context, idle time.Duration, speed *speed, slow func() error) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{speed: speed, cancel: cancel}
	w.timer = time.AfterFunc(idle, func() {
		if n := w.recent.Swap(0); n < idleBytes && !w.paused.Load() {
			cancel(fmt.Errorf("%w: %d bytes in %v", ErrStalled, n, idle))
			return
		}
		if err := slow(); err != nil {
			cancel(err)
			return
		}
		w.timer.Reset(idle)
	})
	return ctx, w
}

// pause is for a time in which the server is not to blame. It ends with resume.
func (w *watch) pause() {
	w.paused.Store(true)
	w.speed.count(-1)
}

func (w *watch) resume() {
	w.recent.Store(idleBytes) // counts as progress, or the time would be held against the server
	w.paused.Store(false)
	w.speed.count(1)
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// reader counts what is read from r as progress.
func (w *watch) reader(r io.Reader) io.Reader { return watchedReader{r, w} }

type watchedReader struct {
	r io.Reader
	w *watch
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.w.recent.Add(int64(n))
	r.w.speed.add(int64(n))
	return n, err
}
