// Package server is attestd: it judges the evidence of devices and releases the site's secrets to those
// that booted what they should have.
//
// Two handlers. [Server.Devices] speaks the protocol of attest/wire to anyone on the network; nothing it
// does depends on TLS but the agent's calls, which need a client certificate. [Server.Admin] shows state
// to operators; it only reads, and belongs on a loopback address.
//
// Between messages the server remembers nothing: what it needs again is sealed in the cookie. The only
// state is the claim of a cookie, made in the transaction that writes the audit record, before anything
// is released. So any replica can serve any message, and a crash between decision and answer costs the
// device one retry. What a device proves is committed when it acknowledges (M5), and not before.
//
// Answers to failures carry a code and the verifier's reasons, never an internal error.
package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
)

// Config is what a server needs. Only Site and Store are required.
type Config struct {
	Site  *site.Site
	Store *store.Store
	Log   *slog.Logger     // nil discards; it is written at a bounded pace
	Now   func() time.Time // nil means time.Now
	// Evidence is a directory that keeps the last evidence (M3) of each known device, for auditors who
	// verify it with tools of their own. Empty keeps none.
	Evidence string
	// Rate and Burst bound the requests per second from one address (IPv4) or /64 network (IPv6); a /24 of IPv4
	// and a /56 of IPv6 have half as much again, a /48 twice as much.
	// Zero means 200 and 2000: a site behind one NAT comes back at once after a power cut.
	Rate, Burst float64
}

// Server serves one site.
type Server struct {
	Config
	verifier   *verify.Site
	appraisers appraisers
	limiter    *networkLimiter
	quiet      *quiet
	log        *pacedLog     // behind Log
	work       chan struct{} // one token for each appraisal that may run at a time
	metrics    *metrics
	bodies     budget
	strangers  strangers
	tls        certificate

	// afterDecide is called between the durable decision and its answer. Tests kill the process there.
	afterDecide func()
}

// New checks the configuration and returns a server that is not yet listening.
func New(c Config) (*Server, error) {
	if c.Site == nil || c.Store == nil {
		return nil, errors.New("attestd: site and store are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rate == 0 {
		c.Rate = 200
	}
	if c.Burst == 0 {
		c.Burst = 2000
	}
	log := newPacedLog(c.Log.Handler())
	c.Log = slog.New(log)
	s := &Server{
		Config:      c,
		log:         log,
		limiter:     newNetworkLimiter(c.Rate, c.Burst),
		quiet:       newQuiet(),
		metrics:     newMetrics(c.Now()),
		work:        make(chan struct{}, 4*runtime.GOMAXPROCS(0)),
		afterDecide: func() {},
		appraisers:  appraisers{parse: parseDocuments},
		verifier: &verify.Site{
			Name: c.Site.Name, CookieKey: c.Site.CookieKey, ReleaseKey: c.Site.ReleasePublic(), EKRoots: c.Site.EKRoots,
		},
	}
	return s, nil
}

// Limits of a connection. A slow client is cut by them; evidence of 4 MiB at 64 KiB/s still passes.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 75 * time.Second
	writeTimeout  = 90 * time.Second
	idleTimeout   = 30 * time.Second
	handleTimeout = 30 * time.Second // for an answer, once the request is there: a store may hang
	maxHeader     = 16 << 10
	drainTimeout  = 20 * time.Second
	houseEvery    = 10 * time.Minute
)

func newHTTP(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(httpLog{log.Handler()}, slog.LevelDebug),
	}
}

// listener is an address and what answers there.
type listener struct {
	server *http.Server
	net.Listener
}

// listeners are those that [Server.Serve] serves.
func (s *Server) listeners(devices, admin net.Listener) []listener {
	all := []listener{{newHTTP(s.Devices(), s.Log), tls.NewListener(s.limitConns(devices), s.TLS())}}
	if admin != nil {
		all = append(all, listener{newHTTP(s.Admin(), s.Log), admin})
	}
	return all
}

// Serve answers devices on one listener (TLS is added here) and operators on the other, until ctx ends;
// then it lets running requests finish. Admin may be nil.
func (s *Server) Serve(ctx context.Context, devices, admin net.Listener) error {
	// Without reference values nothing can be admitted, but documents may be added while we run.
	if _, err := s.appraisers.get(ctx, s.Store); err != nil && ctx.Err() == nil {
		return fmt.Errorf("attestd: %w", err)
	}
	all := s.listeners(devices, admin)
	failed := make(chan error, len(all))
	for _, l := range all {
		go func() { failed <- l.server.Serve(l.Listener) }()
	}
	err := s.housekeep(ctx, failed)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	for _, l := range all {
		err = errors.Join(err, l.server.Shutdown(drain))
	}
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), handleTimeout)
	defer cancelLast()
	s.tell(last)
	s.log.tell(last, s.Now())
	if err != nil {
		return fmt.Errorf("attestd: %w", err)
	}
	return nil
}

func (s *Server) limitConns(devices net.Listener) net.Listener {
	return limitConns(devices, maxConns, maxNetworkConns, func() { s.metrics.crowded.Inc() })
}

// housekeep tidies up until ctx ends or a listener fails.
func (s *Server) housekeep(ctx context.Context, failed <-chan error) error {
	tick := time.NewTicker(houseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-tick.C:
			s.keepHouse(ctx)
		}
	}
}

func (s *Server) keepHouse(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	if _, err := s.Store.Prune(ctx); err != nil {
		s.Log.Error("prune", "err", err)
	}
	s.tell(ctx)
	s.log.tell(ctx, s.Now())
}

// TLS is the configuration of the devices' listener. Its certificate comes from the site's CA, is renewed
// in time, and its key never leaves memory. Clients may show an agent certificate. No session is resumed: a ticket
// would stand in for the agent key where there is no TPM.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.tls.get(s.Site.CA, s.Site.Host(), s.Now())
		},
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  s.Site.CA.Pool(),
		Time:       s.Now,
		NextProtos: []string{"http/1.1"},

		SessionTicketsDisabled: true,
	}
}

// certificate is attestd's own TLS certificate.
type certificate struct {
	mu      sync.Mutex
	current *tls.Certificate
}

func (c *certificate) get(authority *ca.CA, host string, now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Before its life lies a certificate that was made while the clock was ahead.
	if c.current != nil && !now.Before(c.current.Leaf.NotBefore) && now.Before(c.current.Leaf.NotBefore.Add(ca.ServerLife/2)) {
		return c.current, nil
	}
	var key *ecdsa.PrivateKey
	key, err := ca.NewKey()
	if err != nil {
		return nil, err
	}
	names := []string{host}
	if host != "localhost" {
		names = append(names, "localhost")
	}
	text, err := authority.Server(&key.PublicKey, names)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Parse(text)
	if err != nil {
		return nil, err
	}
	c.current = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return c.current, nil
}
