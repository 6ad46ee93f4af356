package server

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealboot/sealboot/attest/store"
)

// metrics are counters without labels that a device could invent, so their number is bounded.
type metrics struct {
	start     time.Time
	requests  counters // by endpoint and outcome
	decisions counters // by phase, verdict and code
	acks      atomic.Int64
	limited   atomic.Int64
	busy      atomic.Int64
	crowded   atomic.Int64
	judging   atomic.Int64 // nanoseconds, total
	judged    atomic.Int64
}

type counters struct {
	mu sync.Mutex
	n  map[string]int64
}

func (c *counters) add(labels string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int64{}
	}
	c.n[labels]++
}

func (c *counters) write(w io.Writer, name, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n", name, help, name)
	c.mu.Lock()
	defer c.mu.Unlock()
	labels := make([]string, 0, len(c.n))
	for l := range c.n {
		labels = append(labels, l)
	}
	slices.Sort(labels)
	for _, l := range labels {
		fmt.Fprintf(w, "%s{%s} %d\n", name, l, c.n[l])
	}
}

func counter(w io.Writer, name, help string, v int64) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n%s %d\n", name, help, name, name, v)
}

// serveMetrics writes Prometheus' text format.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	count, err := s.Store.Count(r.Context())
	if err != nil {
		s.Log.Error("metrics", "err", err)
		http.Error(w, "store does not answer", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	var b strings.Builder
	m := &s.metrics
	fmt.Fprintf(&b, "# HELP sealboot_start_time_seconds When this process started.\n# TYPE sealboot_start_time_seconds gauge\nsealboot_start_time_seconds %d\n", m.start.Unix())
	fmt.Fprint(&b, "# HELP sealboot_devices Devices by state.\n# TYPE sealboot_devices gauge\n")
	for _, st := range []store.State{store.Enrolled, store.Pending, store.Quarantined} {
		fmt.Fprintf(&b, "sealboot_devices{state=%q} %d\n", st, count[st])
	}
	m.requests.write(&b, "sealboot_requests_total", "Requests by endpoint and HTTP status.")
	m.decisions.write(&b, "sealboot_decisions_total", "Decisions by phase, verdict and code.")
	counter(&b, "sealboot_acknowledged_total", "Releases that a device proved to have read.", m.acks.Load())
	counter(&b, "sealboot_rate_limited_total", "Requests refused because of their source's rate.", m.limited.Load())
	counter(&b, "sealboot_connections_refused_total", "Connections closed because there were too many.", m.crowded.Load())
	counter(&b, "sealboot_busy_total", "Evidence refused because too much was being judged.", m.busy.Load())
	fmt.Fprintf(&b, "# HELP sealboot_appraisal_seconds Time to judge evidence.\n# TYPE sealboot_appraisal_seconds summary\n"+
		"sealboot_appraisal_seconds_sum %g\nsealboot_appraisal_seconds_count %d\n",
		time.Duration(m.judging.Load()).Seconds(), m.judged.Load())
	_, _ = io.WriteString(w, b.String())
}
