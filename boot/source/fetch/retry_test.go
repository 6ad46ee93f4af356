package fetch

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryAfter(t *testing.T) {
	const date = "Tue, 03 Mar 2026 12:00:00 GMT"
	for _, c := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"7", "", 7 * time.Second},
		{" 7 ", date, 7 * time.Second},
		{"-7", date, 0},
		{"86400", date, maxRetryAfter},
		{"99999999999999999999", date, 0},
		{"Tue, 03 Mar 2026 12:00:30 GMT", date, 30 * time.Second},
		{"Tue, 03 Mar 2026 11:00:00 GMT", date, 0},
		{"Tue, 03 Mar 2036 12:00:00 GMT", date, maxRetryAfter},
		{"Tue, 03 Mar 2026 12:00:30 GMT", "", 0},
		{"soon", date, 0},
	} {
		h := http.Header{"Retry-After": {c.after}, "Date": {c.date}}
		if got := retryAfter(h); got != c.want {
			t.Errorf("Retry-After %q at %q: %v, want %v", c.after, c.date, got, c.want)
		}
	}
}

// TestBackoff: pauses double up to the longest, less a random part of up to a
// half, and are not shorter than the server asked for, unless that is too long.
func TestBackoff(t *testing.T) {
	opt := Options{MinBackoff: time.Second, MaxBackoff: 8 * time.Second}
	for _, c := range []struct {
		failures    int
		after       time.Duration
		least, most time.Duration
	}{
		{1, 0, 500 * time.Millisecond, time.Second},
		{2, 0, time.Second, 2 * time.Second},
		{4, 0, 4 * time.Second, 8 * time.Second},
		{100, 0, 4 * time.Second, 8 * time.Second},
		{1, 5 * time.Second, 5 * time.Second, 5 * time.Second},
		{4, 5 * time.Second, 5 * time.Second, 8 * time.Second},
		{1, time.Hour, 8 * time.Second, 8 * time.Second},
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			synctest.Test(t, func(t *testing.T) {
				m := &mirror{opt: &opt, failures: c.failures - 1}
				m.failed(c.after)
				w := m.wait()
				if seen[w] = true; w < c.least || w > c.most {
					t.Errorf("failure %d, Retry-After %v: %v, want %v to %v", c.failures, c.after, w, c.least, c.most)
				}
				m.succeeded()
				if m.wait() != 0 {
					t.Error("a pause after success")
				}
			})
		}
		if c.least < c.most && len(seen) < 50 {
			t.Errorf("failure %d: %d different pauses of 100", c.failures, len(seen))
		}
	}
}
