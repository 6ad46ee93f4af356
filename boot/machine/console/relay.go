package console

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// relayRoom is how many bytes a [Relay] keeps for a writer that does not take
// them: some hundred screens.
const relayRoom = 256 << 10

// A Relay writes to something that may block for ever, such as a serial line
// whose other end says "stop", for somebody who must go on. Its Write never
// waits and never fails: what there is no room for is dropped, and the number of
// bytes is told when the line moves again.
type Relay struct {
	to   io.Writer
	more chan struct{} // there may be something to write

	mu      sync.Mutex
	pending []byte
	busy    bool // a write to to has not returned
	lost    int  // bytes dropped since the last write
}

// NewRelay returns a relay to w. It runs as long as the process.
func NewRelay(w io.Writer) *Relay {
	r := &Relay{to: w, more: make(chan struct{}, 1)}
	go r.run()
	return r
}

// Write takes all of p or, without room for all of it, nothing: a line of JSON
// is never cut.
func (r *Relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending)+len(p) > relayRoom {
		r.lost += len(p)
		return len(p), nil
	}
	r.pending = append(r.pending, p...)
	select {
	case r.more <- struct{}{}:
	default: // it knows already
	}
	return len(p), nil
}

// Drain waits until everything is written, at most for d.
func (r *Relay) Drain(d time.Duration) {
	const every = 10 * time.Millisecond
	for ; d > 0 && !r.idle(); d -= every {
		time.Sleep(every)
	}
}

func (r *Relay) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending) == 0 && !r.busy
}

func (r *Relay) run() {
	for range r.more {
		for next := r.take(); next != nil; next = r.take() {
			_, _ = r.to.Write(next)
		}
	}
}

// take returns what is to be written next, or nil if that is nothing.
func (r *Relay) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.pending
	if r.lost > 0 && next != nil {
		next = fmt.Appendf(next, "\n (%d bytes were dropped while this console was blocked)\n", r.lost)
		r.lost = 0
	}
	r.pending, r.busy = nil, next != nil
	return next
}
