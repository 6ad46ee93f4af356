package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sealboot/sealboot/boot/base/meminfo"
)

// Blob names content: nothing else about it needs to be trusted.
type Blob struct {
	Digest digest.Digest // sha256 or sha512
	Size   int64         // bytes
}

func (b Blob) check() error {
	if b.Digest.Validate() != nil || b.hash() == nil {
		return fmt.Errorf("blob %q: %w: only sha256 and sha512 digests are supported", b.Digest, ErrUnsupported)
	}
	if b.Size < 0 {
		return fmt.Errorf("blob %s: %w: negative size %d", b.Digest, ErrUnsupported, b.Size)
	}
	return nil
}

// hash is what computes the blob's digest.
func (b Blob) hash() hash.Hash {
	switch b.Digest.Algorithm() {
	case digest.SHA256:
		return sha256.New()
	case digest.SHA512:
		return sha512.New()
	}
	return nil
}

// Options tune a [Fetcher]. The zero value of every field but Mirrors is right
// for a boot loader.
type Options struct {
	Mirrors []Mirror // at least one, in order of preference

	Blobs       int           // blobs at once in Prefetch; 0 means 3
	Connections int           // requests at once in all; 0 means 6
	Streams     int           // requests at once for one large blob; 0 means 4
	Attempts    int           // failures in a row without progress before a mirror is given up; 0 means 6
	IdleTimeout time.Duration // a request must bring 4 KiB in each such period; 0 means 30 s
	MinBackoff  time.Duration // first pause after a failure, doubled each time; 0 means 500 ms
	MaxBackoff  time.Duration // longest pause, also for Retry-After; 0 means 60 s

	// Cache keeps partial and complete blobs over a power cut. Nothing read
	// from it is trusted. Nil means that a partial lives as long as the Fetcher.
	Cache *Cache

	// Room says how many bytes may be filled with blobs. Nil means MemAvailable.
	Room func() (int64, error)

	// Progress is called from several goroutines, at most ten times a second
	// and once when a blob is complete.
	Progress func(Progress)

	// Warn is told of what went wrong and was survived. May be nil.
	Warn func(error)
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.Blobs, 3)
	def(&o.Connections, 6)
	def(&o.Streams, 4)
	def(&o.Attempts, 6)
	defTime(&o.IdleTimeout, 30*time.Second)
	defTime(&o.MinBackoff, 500*time.Millisecond)
	defTime(&o.MaxBackoff, time.Minute)
	if o.Room == nil {
		o.Room = meminfo.Available
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return o
}

// Fetcher fetches blobs from the mirrors of one source. It keeps what has
// arrived between calls, so a call that is repeated goes on where the last
// one stopped. It is safe for concurrent use.
type Fetcher struct {
	opt     Options
	mirrors []*mirror
	slots   chan struct{} // one token a request
	meter   *meter

	mu       sync.Mutex
	partials map[digest.Digest]*entry
	closed   bool
}

// entry serialises the callers that want the same blob.
type entry struct {
	turn chan struct{} // one token
	part *partial      // nil before the first byte and after the file was handed out
}

// New returns a Fetcher. It does no I/O.
func New(opt Options) (*Fetcher, error) {
	if len(opt.Mirrors) == 0 {
		return nil, errors.New("fetch: no mirror given")
	}
	opt = opt.withDefaults()
	f := &Fetcher{
		opt:      opt,
		slots:    make(chan struct{}, opt.Connections),
		meter:    newMeter(opt.Progress),
		partials: make(map[digest.Digest]*entry),
	}
	for _, m := range opt.Mirrors {
		f.mirrors = append(f.mirrors, &mirror{Mirror: m, opt: &f.opt, speed: speed{sample: f.opt.IdleTimeout}})
	}
	return f, nil
}

// Blob returns the verified content of b: a complete, read-only file in memory
// positioned at 0, which the caller closes. It is a memfd, and the only
// descriptor of it.
//
// The error is a *[meminfo.ShortError] if b does not fit into memory, the context's
// error if that ended first, else a *[Error] that tells what each mirror did.
func (f *Fetcher) Blob(ctx context.Context, b Blob) (*os.File, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	e, err := f.enter(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := f.complete(ctx, e, b); err != nil {
		return nil, fmt.Errorf("fetching %s: %w", b.Digest, err)
	}
	file, err := e.part.publish()
	if err != nil {
		return nil, fmt.Errorf("handing out %s: %w", b.Digest, err)
	}
	e.part = nil
	return file, nil
}

// enter waits for the exclusive use of b's entry.
func (f *Fetcher) enter(ctx context.Context, b Blob) (*entry, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, fmt.Errorf("fetching %s: %w", b.Digest, os.ErrClosed)
	}
	e := f.partials[b.Digest]
	if e == nil {
		e = &entry{turn: make(chan struct{}, 1)}
		e.turn <- struct{}{}
		f.partials[b.Digest] = e
	}
	f.mu.Unlock()
	select {
	case <-e.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s: %w", b.Digest, context.Cause(ctx))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed { // while we waited
		e.turn <- struct{}{}
		return nil, fmt.Errorf("fetching %s: %w", b.Digest, os.ErrClosed)
	}
	return e, nil
}

// complete makes e.part hold the whole verified blob.
func (f *Fetcher) complete(ctx context.Context, e *entry, b Blob) error {
	if e.part != nil && e.part.blob.Size != b.Size {
		return fmt.Errorf("%w: size %d wanted after size %d for the same digest", ErrUnsupported, b.Size, e.part.blob.Size)
	}
	if e.part == nil {
		if err := checkRoom(f.opt.Room, b.Size); err != nil {
			return err
		}
		part, err := newPartial(b, f.opt.Cache.ahead())
		if err != nil {
			return err
		}
		e.part = part
		f.meter.expect(b)
		err = f.opt.Cache.load(ctx, part, f.opt.Warn)
		f.meter.add(part.have())
		if err != nil {
			return err
		}
	}
	if e.part.verified {
		return nil
	}
	return newTransfer(f, e.part).run(ctx)
}

// Close drops every blob and partial that was not handed out, and waits for
// calls that are under way; cancel their contexts first.
func (f *Fetcher) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	entries := f.partials
	f.partials = make(map[digest.Digest]*entry)
	f.mu.Unlock()
	var errs []error
	for _, e := range entries {
		<-e.turn
		if e.part != nil {
			errs = append(errs, e.part.file.Close())
			e.part = nil
		}
		e.turn <- struct{}{}
	}
	return errors.Join(errs...)
}

// Prefetch fetches blobs in the order given, Options.Blobs at a time, and
// keeps them for later calls of Blob. It first compares the sum of their sizes
// with the room there is. It returns the first error, after all have stopped.
func (f *Fetcher) Prefetch(ctx context.Context, blobs ...Blob) error {
	if err := f.roomFor(blobs); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	limit := make(chan struct{}, f.opt.Blobs)
	for _, b := range blobs {
		limit <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-limit }()
			if err := f.prefetchOne(ctx, b); err != nil {
				cancel(err) // the first cause stays
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (f *Fetcher) prefetchOne(ctx context.Context, b Blob) error {
	if err := b.check(); err != nil {
		return err
	}
	e, err := f.enter(ctx, b)
	if err != nil {
		return err
	}
	defer func() { e.turn <- struct{}{} }()
	if err := f.complete(ctx, e, b); err != nil {
		return fmt.Errorf("fetching %s: %w", b.Digest, err)
	}
	return nil
}

// roomFor checks the room for what is still to be filled of blobs.
func (f *Fetcher) roomFor(blobs []Blob) error {
	var need int64
	seen := make(map[digest.Digest]bool)
	for _, b := range blobs {
		if seen[b.Digest] {
			continue
		}
		seen[b.Digest] = true
		if need += b.Size - f.Have(b); need < 0 {
			return fmt.Errorf("%w: the sizes of the blobs overflow", ErrUnsupported)
		}
	}
	return checkRoom(f.opt.Room, need)
}

// Have is the number of bytes of b that are in memory and were not handed out;
// 0 while another call is changing that.
func (f *Fetcher) Have(b Blob) int64 {
	f.mu.Lock()
	e := f.partials[b.Digest]
	f.mu.Unlock()
	if e == nil {
		return 0
	}
	select {
	case <-e.turn:
	default:
		return 0
	}
	defer func() { e.turn <- struct{}{} }()
	if e.part == nil || e.part.blob.Size != b.Size {
		return 0
	}
	return e.part.have()
}
