package ocipush

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// tally knows what is to be copied and counts what was. A nil *tally counts nothing.
type tally struct {
	meter fetch.Meter

	mu   sync.Mutex
	todo map[digest.Digest]bool // counted once; false: done, or not needed
}

func newTally(report func(fetch.Progress)) *tally {
	return &tally{meter: fetch.NewMeter(report), todo: make(map[digest.Digest]bool)}
}

// expect adds what was found to the total, once.
func (t *tally) expect(found ...ocispec.Descriptor) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range found {
		if _, known := t.todo[d.Digest]; !known {
			t.todo[d.Digest] = true
			t.meter.Expect(d.Size)
		}
	}
}

// settle ends the wait for d: the bytes of it that were not copied need not be.
func (t *tally) settle(d ocispec.Descriptor, copied int64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.todo[d.Digest] {
		t.todo[d.Digest] = false
		t.meter.Expect(copied - d.Size)
	}
}

// into returns the target dst, whose pushes are counted.
func (t *tally) into(dst *Target) *Target {
	if t == nil {
		return dst
	}
	counting := *dst
	counting.GraphTarget, counting.tally = countedTarget{dst.GraphTarget, t}, t
	return &counting
}

// Watched returns the same target, which reports the bytes of what is pushed now
// and then, and once more when flush is called.
func (t *Target) Watched(report func(fetch.Progress)) (_ *Target, flush func()) {
	var one sync.Mutex
	tally := newTally(inTurn(&one, report))
	return tally.into(t), tally.meter.Flush
}

type countedTarget struct {
	oras.GraphTarget
	tally *tally
}

func (c countedTarget) Push(ctx context.Context, d ocispec.Descriptor, content io.Reader) error {
	c.tally.expect(d)
	r := &countedReader{Reader: content, meter: c.tally.meter}
	err := c.GraphTarget.Push(ctx, d, r)
	if err == nil || errors.Is(err, errdef.ErrAlreadyExists) {
		c.tally.settle(d, r.n)
	}
	return err
}

type countedReader struct {
	io.Reader
	meter fetch.Meter
	n     int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	r.meter.Add(int64(n))
	return n, err
}
