package server

import (
	"errors"
	"io"
	"net/netip"
	"sync"
)

// maxBodies is how many bytes of evidence may be in memory at once: 128 devices that send the largest there is, and
// thousands that send what they usually have. One network, as [network] has it, may have an eighth of that and
// those [around] it their share, or who sends much and slowly from one place would shut out all others.
const (
	maxBodies        = 512 << 20
	maxNetworkBodies = maxBodies / 8
)

var errBusy = errors.New("too many requests are being received at once")

// budget bounds the memory of evidence that is being received or judged. A rate limit does not: a request may take
// a minute to arrive. It counts bytes that have come, so that a slow client holds no more than it has sent. Other
// messages are small; the number of connections bounds them.
type budget struct {
	mu   sync.Mutex
	used int64
	by   map[netip.Prefix]int64 // of used, by network and those around it
}

// add charges n bytes, or gives them back if n is negative, and tells whether there was room.
func (b *budget) add(from netip.Prefix, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[netip.Prefix]int64{}
	}
	b.used += n
	room := b.used <= maxBodies
	for i, p := range around(from) {
		room = room && float64(b.by[p]+n) <= maxNetworkBodies*share(i)
		if b.by[p] += n; b.by[p] == 0 {
			delete(b.by, p)
		}
	}
	return room
}

// reader charges what is read from r. Release gives it back, once the body is forgotten.
func (b *budget) reader(r io.Reader, from netip.Prefix) *chargedReader {
	return &chargedReader{r: r, budget: b, from: from}
}

type chargedReader struct {
	r       io.Reader
	budget  *budget
	from    netip.Prefix
	charged int64
}

func (c *chargedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.charged += int64(n)
	if !c.budget.add(c.from, int64(n)) {
		return n, errBusy
	}
	return n, err
}

func (c *chargedReader) release() { c.budget.add(c.from, -c.charged) }
