package server

import (
	"math"
	"sync"
	"time"
)

// limiter is a token bucket for each network, or device. It holds at most maxBuckets of them: when an attacker
// brings more, the newest share one bucket, that of the zero key, instead of memory growing.
type limiter[K comparable] struct {
	rate, burst float64 // tokens a second, and how many can be saved up
	debt        float64 // how many can be owed
	mu          sync.Mutex
	buckets     map[K]*bucket
	swept       time.Time
}

type bucket struct {
	tokens float64
	last   time.Time
}

const (
	maxBuckets   = 50_000
	sweepEvery   = time.Minute
	sweepCrowded = time.Second
	// bytesPerToken is how much of a message costs as much as its coming: to read 4 MiB of JSON takes the time of
	// dozens of usual messages.
	bytesPerToken = 64 << 10
)

func newLimiter[K comparable](rate, burst float64) *limiter[K] {
	return &limiter[K]{rate: rate, burst: burst, debt: math.Inf(1), buckets: map[K]*bucket{}}
}

// allow takes a token.
func (l *limiter[K]) allow(key K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// spend takes tokens for what was received already, also those that will only be there later.
func (l *limiter[K]) spend(key K, tokens float64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key, now)
	b.tokens = max(b.tokens-tokens, -l.debt)
}

// bucket returns the bucket of a key as it is now.
func (l *limiter[K]) bucket(key K, now time.Time) *bucket {
	crowded := len(l.buckets) >= maxBuckets && now.Sub(l.swept) > sweepCrowded
	if crowded || now.Sub(l.swept) > sweepEvery {
		l.sweep(now)
	}
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			var shared K
			key = shared
			b = l.buckets[key]
		}
		if b == nil {
			b = &bucket{tokens: l.burst, last: now}
			l.buckets[key] = b
		}
	}
	b.refill(now, l.rate, l.burst)
	return b
}

func (b *bucket) refill(now time.Time, rate, burst float64) {
	if d := now.Sub(b.last).Seconds(); d > 0 {
		b.tokens = min(burst, b.tokens+d*rate)
		b.last = now
	}
}

// sweep forgets those whose bucket is full again.
func (l *limiter[K]) sweep(now time.Time) {
	l.swept = now
	for k, b := range l.buckets {
		if b.refill(now, l.rate, l.burst); b.tokens >= l.burst {
			delete(l.buckets, k)
		}
	}
}
