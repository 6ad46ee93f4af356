package fetch

import (
	"context"
	"slices"
	"sync"
)

// plan says which bytes of a blob are still to be asked for and which are
// being received. Claims are taken from the front, so the bytes before
// the lowest one that is missing form a prefix that the hash can follow.
type plan struct {
	mu     sync.Mutex
	size   int64
	limit  int64  // nothing at or beyond it may be claimed yet
	ahead  int64  // how far beyond the prefix others than the lowest claim may reach; 0 is no bound
	todo   []span // sorted, disjoint, not claimed
	active []*claim
	kick   chan struct{} // one token: the prefix may have grown
	freed  chan struct{} // one token: a claim has ended, or the limit has moved
	opened chan struct{} // one token: the limit has moved
}

type span struct{ pos, end int64 } // [pos, end)

// claim is a span that one request fills from its start.
type claim struct{ span }

func newPlan(have, size, ahead int64) *plan {
	token := func() chan struct{} { return make(chan struct{}, 1) }
	p := &plan{size: size, limit: size, ahead: ahead, kick: token(), freed: token(), opened: token()}
	if have < size {
		p.todo = []span{{have, size}}
	}
	return p
}

// claim takes up to most bytes from the first gap; nil if there is none.
func (p *plan) claim(most int64) *claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.reach()
	if end == 0 {
		return nil
	}
	gap := &p.todo[0]
	c := &claim{span{gap.pos, min(end, gap.pos+most)}}
	if gap.pos = c.end; gap.pos == gap.end {
		p.todo = p.todo[1:]
	}
	p.active = append(p.active, c)
	return c
}

// reach is where a claim of the first gap may end at most; 0 if there is none
// now. p.mu is held.
func (p *plan) reach() int64 {
	if len(p.todo) == 0 || p.todo[0].pos >= p.limit {
		return 0
	}
	gap := p.todo[0]
	end := min(gap.end, p.limit)
	if front := p.front(); p.ahead > 0 && front < gap.pos {
		end = min(end, front+p.ahead)
		if end < gap.end && end < gap.pos+minSegment { // not worth a request yet
			return 0
		}
	}
	return end
}

// extend lets c go on into the gap behind it, if no one has claimed that. With
// a limit c must be the only claim, because it will wait for the limit to move,
// which needs all that is before it.
func (p *plan) extend(c *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit < p.size && len(p.active) > 1 {
		return
	}
	if len(p.todo) > 0 && p.todo[0].pos == c.end {
		c.end = p.todo[0].end
		p.todo = p.todo[1:]
	}
}

// advance notes that n more bytes of c are in the file.
func (p *plan) advance(c *claim, n int64) {
	p.mu.Lock()
	c.pos += n
	p.mu.Unlock()
	wake(p.kick)
}

// release ends c; what it did not fill can be claimed again.
func (p *plan) release(c *claim) {
	p.mu.Lock()
	p.active = slices.DeleteFunc(p.active, func(a *claim) bool { return a == c })
	if c.pos < c.end {
		i, _ := slices.BinarySearchFunc(p.todo, c.pos, func(s span, pos int64) int {
			return int(min(1, max(-1, s.pos-pos)))
		})
		p.todo = slices.Insert(p.todo, i, c.span)
		p.merge()
	}
	p.mu.Unlock()
	wake(p.kick)
	wake(p.freed)
}

// open moves the limit up.
func (p *plan) open(limit int64) {
	p.mu.Lock()
	p.limit = min(limit, p.size)
	p.mu.Unlock()
	wake(p.opened)
	wake(p.freed)
}

// room is how far the limit is beyond pos.
func (p *plan) room(pos int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit - pos
}

// waitRoom blocks until the limit is beyond pos.
func (p *plan) waitRoom(ctx context.Context, pos int64) error {
	for p.room(pos) <= 0 {
		select {
		case <-p.opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// wait blocks while every missing byte is claimed or out of reach. It
// reports whether there is something to claim now; if not, all bytes are there
// or ctx has ended.
func (p *plan) wait(ctx context.Context) bool {
	for {
		p.mu.Lock()
		ready, done := p.reach() > 0, len(p.todo) == 0 && len(p.active) == 0
		p.mu.Unlock()
		if ready || done {
			return ready
		}
		select {
		case <-p.freed:
		case <-ctx.Done():
			return false
		}
	}
}

// merge joins neighbours, so that one request can fill both. p.mu is held.
func (p *plan) merge() {
	out := p.todo[:1]
	for _, s := range p.todo[1:] {
		if last := &out[len(out)-1]; last.end == s.pos {
			last.end = s.end
		} else {
			out = append(out, s)
		}
	}
	p.todo = out
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// prefix is the number of bytes from the start of the blob that are all there.
func (p *plan) prefix() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.front()
}

// front is prefix with p.mu held.
func (p *plan) front() int64 {
	n := p.size
	if len(p.todo) > 0 {
		n = p.todo[0].pos
	}
	for _, c := range p.active {
		n = min(n, c.pos)
	}
	return n
}

// have is the number of bytes that are there, wherever they are.
func (p *plan) have() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.size
	for _, s := range p.todo {
		n -= s.end - s.pos
	}
	for _, c := range p.active {
		n -= c.end - c.pos
	}
	return n
}

// left is the number of bytes that no one has claimed.
func (p *plan) left() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int64
	for _, s := range p.todo {
		n += s.end - s.pos
	}
	return n
}
