package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealboot/sealboot/attest/store"
)

// metrics have no labels that a device could invent, so their number is bounded.
type metrics struct {
	registry  *prometheus.Registry
	devices   *prometheus.GaugeVec   // by state
	requests  *prometheus.CounterVec // by endpoint and HTTP status
	decisions *prometheus.CounterVec // by phase, verdict and code
	acks      prometheus.Counter
	limited   prometheus.Counter
	crowded   prometheus.Counter
	busy      prometheus.Counter
	appraisal prometheus.Summary
}

func newMetrics(start time.Time) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sealboot", Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sealboot", Name: name, Help: help}, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		devices: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "sealboot", Name: "devices", Help: "Devices by state.",
		}, []string{"state"}),
		requests:  counters("requests_total", "Requests by endpoint and HTTP status.", "endpoint", "status"),
		decisions: counters("decisions_total", "Decisions by phase, verdict and code.", "phase", "verdict", "code"),
		acks:      counter("acknowledged_total", "Releases that a device proved to have read."),
		limited:   counter("rate_limited_total", "Requests refused because of their source's rate."),
		crowded:   counter("connections_refused_total", "Connections closed because there were too many."),
		busy:      counter("busy_total", "Evidence refused because too much was being judged."),
		appraisal: prometheus.NewSummary(prometheus.SummaryOpts{
			Namespace: "sealboot", Name: "appraisal_seconds", Help: "Time to judge evidence.",
		}),
	}
	started := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "sealboot", Name: "start_time_seconds", Help: "When this process started.",
	})
	started.Set(float64(start.Unix()))
	m.registry.MustRegister(started, m.devices, m.requests, m.decisions, m.acks, m.limited, m.crowded, m.busy, m.appraisal)
	return m
}

// serveMetrics answers with what was counted, and the devices that there are now.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	count, err := s.Store.Count(r.Context())
	if err != nil {
		s.Log.Error("metrics", "err", err)
		http.Error(w, "store does not answer", http.StatusServiceUnavailable)
		return
	}
	for _, st := range []store.State{store.Enrolled, store.Pending, store.Quarantined} {
		s.metrics.devices.WithLabelValues(string(st)).Set(float64(count[st]))
	}
	promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
