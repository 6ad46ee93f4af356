// Package transport makes the HTTP transports of a loader: to registries, TUF repositories
// and attestd. Each has a deadline for everything but the body of an answer, whose reader
// watches over that; none keeps a connection for ever.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Deadlines and limits of every transport.
const (
	DialTimeout   = 15 * time.Second // also of the TLS handshake
	headerTimeout = time.Minute      // from the request to the headers of the answer
	idleTimeout   = time.Minute
	maxHeader     = 64 << 10 // bytes
	maxIdle       = 8        // connections that are kept for a host
)

// ErrNoCertificate says that a CA has no certificate in it.
var ErrNoCertificate = errors.New("no certificate in it")

// Options say who is reached how. The zero value is TLS 1.2 or newer with the system's
// authorities, dialled directly.
type Options struct {
	CA         []byte // PEM authorities, in place of the system's
	MinVersion uint16 // of TLS; 0 is 1.2
	// Now is the time that certificates are judged by; nil is the system clock.
	Now func() time.Time
	// Dial replaces the TCP dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy says by which HTTP proxy a request goes; nil is none. It is asked for every
	// request, since the network can be made anew without the one that there was.
	Proxy func(*http.Request) (*url.URL, error)
}

// New makes a transport. It does no I/O.
func New(o Options) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: max(o.MinVersion, tls.VersionTLS12), Time: o.Now}
	if len(o.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, ErrNoCertificate
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: DialTimeout}).DialContext
	}
	t := &http.Transport{
		DialContext:            o.Dial,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    DialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		Protocols:              new(http.Protocols),
		Proxy:                  o.Proxy,
	}
	// One connection shared by all streams would undo what several are for.
	t.Protocols.SetHTTP1(true)
	return t, nil
}
