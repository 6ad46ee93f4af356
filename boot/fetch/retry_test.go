package fetch

import (
	"net/http"
	"testing"
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
