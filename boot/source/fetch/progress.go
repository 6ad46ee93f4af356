package fetch

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	progressEvery = 100 * time.Millisecond
	rateWindow    = 3 * time.Second // over about which the rate is averaged
)

// Progress is the state of everything that a Fetcher was asked for so far.
type Progress struct {
	Done, Total int64   // bytes; Total grows when more blobs are asked for
	Rate        float64 // bytes/s of late; 0 is not known
}

// Left estimates the time to the end; 0 is not known.
func (p Progress) Left() time.Duration {
	if p.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(p.Total-p.Done) / p.Rate * float64(time.Second))
}

// A Meter makes Progress of bytes that others than a Fetcher move. Many may use it at once.
type Meter struct{ meter *meter }

// NewMeter returns a Meter that calls report, not more often than people can follow.
func NewMeter(report func(Progress)) Meter { return Meter{newMeter(report)} }

// Expect adds n bytes to the total; less than zero takes back.
func (m Meter) Expect(n int64) {
	m.meter.mu.Lock()
	defer m.meter.mu.Unlock()
	m.meter.now.Total += n
}

// Add counts n bytes as done.
func (m Meter) Add(n int64) { m.meter.add(n) }

// Flush reports the state as it is.
func (m Meter) Flush() { m.meter.flush() }

// meter adds up what transfers report. A nil meter reports to no one.
type meter struct {
	report func(Progress)

	mu       sync.Mutex
	now      Progress
	expected map[digest.Digest]bool // is in Total; true if it is in Done, too, as far as it is there
	since    time.Time              // start of the current sample
	sample   int64                  // bytes in it
}

func newMeter(report func(Progress)) *meter {
	if report == nil {
		return nil
	}
	return &meter{report: report, expected: make(map[digest.Digest]bool)}
}

// expect adds b to the total, once. What is fetched again, because it was handed
// out and is needed once more, does not count as done until it is.
func (m *meter) expect(b Blob) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	counted, known := m.expected[b.Digest]
	m.expected[b.Digest] = true
	switch {
	case !known:
		m.now.Total += b.Size
	case counted:
		m.now.Done -= b.Size
	}
}

// drop takes back the n bytes of b that are counted.
func (m *meter) drop(b Blob, n int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected[b.Digest] = false
	m.now.Done -= n
}

// add counts n bytes, which is negative when a partial was dropped.
func (m *meter) add(n int64) {
	if m == nil || n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Done += n
	now := time.Now()
	if m.since.IsZero() {
		m.since = now
	}
	m.sample += max(n, 0)
	d := now.Sub(m.since)
	if d < progressEvery {
		return
	}
	rate := float64(m.sample) / d.Seconds()
	if m.now.Rate == 0 {
		m.now.Rate = rate
	} else {
		weight := min(1, d.Seconds()/rateWindow.Seconds())
		m.now.Rate += (rate - m.now.Rate) * weight
	}
	m.since, m.sample = now, 0
	m.report(m.now)
}

// flush reports the state as it is.
func (m *meter) flush() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report(m.now)
}
