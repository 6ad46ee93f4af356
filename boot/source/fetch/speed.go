package fetch

import (
	"sync"
	"time"
)

const (
	// patience is how long the rest of a blob may take before a mirror counts as slow.
	patience = 5 * time.Minute
	// muchFaster is how many times as fast another mirror must be to be worth a change.
	muchFaster = 4
	// rateLasts is how long a measured rate is believed.
	rateLasts = 10 * time.Minute
	// sampleSize is enough bytes to tell a rate by, in however short a time.
	sampleSize = 1 << 20
)

// speed measures what a mirror brings to all requests together while there is
// at least one.
type speed struct {
	sample time.Duration // length of a sample that does not bring sampleSize

	mu       sync.Mutex
	requests int           // under way
	since    time.Time     // when spent was added to last
	spent    time.Duration // in this sample
	bytes    int64         // in this sample
	rate     float64       // bytes/s in the last sample
	measured time.Time     // when that ended; zero if there was none
}

// add counts bytes that have arrived.
func (s *speed) add(n int64) {
	s.mu.Lock()
	s.bytes += n
	s.mu.Unlock()
}

// count notes that a request has begun (1) or ended (-1), or nothing but that
// time has passed (0), and ends the sample if it is long enough.
func (s *speed) count(requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.requests > 0 {
		s.spent += now.Sub(s.since)
	}
	s.since = now
	s.requests += requests
	if s.spent > 0 && (s.spent >= s.sample || s.bytes >= sampleSize) {
		s.rate, s.measured = float64(s.bytes)/s.spent.Seconds(), now
		s.spent, s.bytes = 0, 0
	}
}

// last returns the rate in bytes/s, if it was measured not long ago.
func (s *speed) last() (rate float64, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rate, !s.measured.IsZero() && time.Since(s.measured) < rateLasts
}

// outpaced reports whether mirror i should leave the rest to another: it is
// slow, and there is one that can be asked now and is much faster or not known.
//
// So of mirrors that are all slow each is tried once in rateLasts, for one
// sample, and a change loses nothing of what has arrived. t.mu is held.
func (t *transfer) outpaced(i int) bool {
	rate, known := t.f.mirrors[i].speed.last()
	left := t.part.blob.Size - t.part.have()
	if !known || float64(left) <= rate*patience.Seconds() {
		return false
	}
	for j, m := range t.f.mirrors {
		if j == i || !t.usable(j) || m.wait() > 0 {
			continue
		}
		// One that sends whole blobs only has to be worth it.
		other, known := m.speed.last()
		if !known && t.states[j].restarts == 0 || known && other >= muchFaster*rate {
			return true
		}
	}
	return false
}

// usable reports whether mirror j may be asked for this blob at all. t.mu is held.
func (t *transfer) usable(j int) bool {
	st := &t.states[j]
	// Who sends a blob alone has to start it again, so each gives way once.
	return !st.gone && (t.solo < 0 || !st.gaveWay)
}
