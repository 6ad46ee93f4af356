package server

import (
	"errors"
	"io"
	"sync/atomic"
)

// maxBodies is how many bytes of requests may be in memory at once: 128 devices that send the largest evidence there
// is, and thousands that send what they usually have.
const maxBodies = 512 << 20

var errBusy = errors.New("too many requests are being received at once")

// budget bounds the memory of bodies that are being received or judged. A rate limit does not: a request may take
// a minute to arrive. It counts bytes that have come, so that a slow client holds no more than it has sent.
type budget struct{ used atomic.Int64 }

// reader charges what is read from r. Release gives it back, once the body is forgotten.
func (b *budget) reader(r io.Reader) *chargedReader { return &chargedReader{r: r, budget: b} }

type chargedReader struct {
	r       io.Reader
	budget  *budget
	charged int64
}

func (c *chargedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.charged += int64(n)
	if c.budget.used.Add(int64(n)) > maxBodies {
		return n, errBusy
	}
	return n, err
}

func (c *chargedReader) release() { c.budget.used.Add(-c.charged) }
