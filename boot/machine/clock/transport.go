package clock

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// Transport returns a copy of base whose certificate checks use this clock.
//
// pinned is for connections whose only roots are the site's CA, and that carry
// nothing which rests on TLS: those to attestd. There, and only there, a machine
// must get through with a wrong clock, or it could never reach the signed time.
// A certificate that is not valid yet moves the clock to its NotBefore, because
// anyone who holds the site's CA says that this moment has passed. One that has
// expired is judged at its NotBefore until the time was signed: the clock may be
// ahead, and the worst is that somebody with an old key reads along. The signed
// time moves for no certificate: attestd's clock may have been ahead when it made
// one. Roots, chain and name are checked as ever, and with them the connection is
// tried once more.
//
// With policy [Off] no dates are checked.
func (c *Clock) Transport(base *http.Transport, pinned bool) http.RoundTripper {
	t := &transport{clock: c, base: base.Clone(), pinned: pinned}
	if t.base.TLSClientConfig == nil {
		t.base.TLSClientConfig = new(tls.Config)
	}
	t.base.TLSClientConfig.Time = t.now
	return t
}

type transport struct {
	clock  *Clock
	base   *http.Transport
	pinned bool
	at     atomic.Pointer[time.Time] // when certificates are judged, if not by the clock
}

func (t *transport) now() time.Time {
	s := t.clock.State()
	if at := t.at.Load(); at != nil && (t.clock.policy == Off || !s.Trusted || at.After(s.Lower)) {
		return *at
	}
	return s.Lower
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(r)
	if err == nil || !t.solve(r, err) {
		return resp, err
	}
	again := r.Clone(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		// The handshake failed, so nothing was sent; but Body is closed.
		if r.GetBody == nil {
			return nil, err
		}
		body, bodyErr := r.GetBody()
		if bodyErr != nil {
			return nil, fmt.Errorf("%w; read the request once more: %w", err, bodyErr)
		}
		again.Body = body
	}
	return t.base.RoundTrip(again)
}

// CloseIdleConnections lets http.Client close what the copy keeps open.
func (t *transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

// solve reports whether err is about the date of a certificate and the next
// try will judge it at another time.
func (t *transport) solve(r *http.Request, err error) bool {
	var bad *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &bad) || !errors.As(bad.Err, &invalid) || invalid.Reason != x509.Expired || len(bad.UnverifiedCertificates) == 0 {
		return false
	}
	leaf := bad.UnverifiedCertificates[0]
	if t.clock.policy == Off {
		return t.judgeAt(leaf.NotBefore)
	}
	if !t.pinned || t.base.TLSClientConfig.RootCAs == nil {
		return false
	}
	o := x509.VerifyOptions{
		Roots:         t.base.TLSClientConfig.RootCAs,
		Intermediates: x509.NewCertPool(),
		DNSName:       r.URL.Hostname(),
		CurrentTime:   leaf.NotBefore,
	}
	for _, c := range bad.UnverifiedCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(o); err != nil {
		return false
	}
	s := t.clock.State()
	switch early := leaf.NotBefore.After(s.Lower); {
	case early && !s.Trusted:
		return t.clock.notBefore(leaf.NotBefore)
	case !early && s.Trusted:
		return false
	}
	return t.judgeAt(leaf.NotBefore)
}

// judgeAt has certificates judged at a moment, and reports whether that is news.
func (t *transport) judgeAt(at time.Time) bool {
	last := t.at.Swap(&at)
	return last == nil || !last.Equal(at)
}

// notBefore moves the clock forward to t and reports whether it did.
func (c *Clock) notBefore(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.After(c.now()) || t.After(c.most) {
		return false
	}
	c.set(t, SourceNotBefore)
	return true
}
