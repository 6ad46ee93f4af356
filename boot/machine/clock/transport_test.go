package clock_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/machine/clock"
)

// authority is a site's CA and a server with a certificate of it.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "site CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: built.Add(-year), NotAfter: built.Add(30 * year), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) serve(t *testing.T, ip string, from, to time.Time) string {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.ParseIP(ip)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestTransport(t *testing.T) {
	site, other := newAuthority(t), newAuthority(t)
	fresh := built.Add(2 * day)
	for _, c := range []struct {
		name     string
		ca       *authority
		ip       string
		from, to time.Time
		policy   clock.Policy
		pinned   bool
		wantErr  string
		source   clock.Source
	}{
		{"valid", site, "127.0.0.1", built.Add(-day), fresh, clock.Prefer, true, "", clock.SourceBuild},
		{"dead RTC, fresh certificate", site, "127.0.0.1", fresh, fresh.Add(year), clock.Prefer, true, "", clock.SourceNotBefore},
		{"not for a public CA", site, "127.0.0.1", fresh, fresh.Add(year), clock.Prefer, false, "not yet valid", clock.SourceBuild},
		{"not for another CA", other, "127.0.0.1", fresh, fresh.Add(year), clock.Prefer, true, "not yet valid", clock.SourceBuild},
		{"not for another name", site, "127.0.0.9", fresh, fresh.Add(year), clock.Prefer, true, "not yet valid", clock.SourceBuild},
		{"a clock ahead, expired certificate", site, "127.0.0.1", built.Add(-2 * day), built.Add(-day), clock.Prefer, true, "", clock.SourceBuild},
		{"expired, of a public CA", site, "127.0.0.1", built.Add(-2 * day), built.Add(-day), clock.Prefer, false, "expired", clock.SourceBuild},
		{"expired, of another CA", other, "127.0.0.1", built.Add(-2 * day), built.Add(-day), clock.Prefer, true, "expired", clock.SourceBuild},
		{"expired, of another name", site, "127.0.0.9", built.Add(-2 * day), built.Add(-day), clock.Prefer, true, "expired", clock.SourceBuild},
		{"beyond the horizon", site, "127.0.0.1", built.Add(16 * year), built.Add(20 * year), clock.Prefer, true, "not yet valid", clock.SourceBuild},
		{"off: expired", site, "127.0.0.1", built.Add(-2 * day), built.Add(-day), clock.Off, false, "", clock.SourceBuild},
		{"off: another CA", other, "127.0.0.1", built.Add(-2 * day), built.Add(-day), clock.Off, false, "unknown authority", clock.SourceBuild},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := c.ca.serve(t, c.ip, c.from, c.to)
			roots := x509.NewCertPool()
			roots.AddCert(site.cert)
			k, _ := frozen(clock.Options{Built: built, Policy: c.policy})
			client := &http.Client{Transport: k.Transport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, c.pinned)}
			defer client.CloseIdleConnections()
			resp, err := client.Post(url, "text/plain", strings.NewReader("the whole body"))
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("error = %v; want %q in it", err, c.wantErr)
				}
			} else if err != nil {
				t.Error(err)
			} else {
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(b) != "the whole body" {
					t.Errorf("the server got %q, %v", b, err)
				}
			}
			if got := k.State(); got.Source != c.source || got.Trusted {
				t.Errorf("State = %+v; want the source %q, not trusted", got, c.source)
			}
		})
	}
}

// TestAhead has a machine whose clock is years ahead reach attestd, be corrected by it, and judge certificates by the
// signed time from then on.
func TestAhead(t *testing.T) {
	for name, ahead := range map[string]func(o *clock.Options) (floor time.Time){
		"real-time clock": func(o *clock.Options) time.Time { o.RTC = built.Add(5 * year); return time.Time{} },
		"time floor":      func(*clock.Options) time.Time { return built.Add(5 * year) },
	} {
		t.Run(name, func(t *testing.T) {
			site := newAuthority(t)
			roots := x509.NewCertPool()
			roots.AddCert(site.cert)
			o := clock.Options{Built: built}
			floor := ahead(&o)
			k, _ := frozen(o)
			k.Floor(floor)
			client := &http.Client{Transport: k.Transport(&http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, true)}
			get := func(from, to time.Time) error {
				resp, err := client.Get(site.serve(t, "127.0.0.1", from, to))
				if err == nil {
					resp.Body.Close()
				}
				return err
			}
			now := built.Add(10 * day)
			if err := get(now.Add(-15*day), now.Add(15*day)); err != nil {
				t.Fatalf("attestd cannot be reached: %v", err)
			}
			if s := k.State(); !s.Lower.Equal(built.Add(5*year)) || s.Trusted {
				t.Errorf("a certificate moved the clock back: %+v", s)
			}
			if err := k.Signed(now); err != nil {
				t.Fatal(err)
			}
			if !k.Now().Equal(now) {
				t.Errorf("Now = %v; want the signed %v", k.Now(), now)
			}
			if err := get(now.Add(-15*day), now.Add(15*day)); err != nil {
				t.Errorf("by the signed time: %v", err)
			}
			// attestd's clock was ahead when it made this one, or that of its replica is.
			if err := get(now.Add(20*day), now.Add(50*day)); err != nil {
				t.Errorf("not valid yet by the signed time: %v", err)
			}
			if !k.Now().Equal(now) {
				t.Errorf("a certificate moved the signed time to %v", k.Now())
			}
			if err := get(now.Add(-30*day), now.Add(-day)); err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("expired by the signed time: %v", err)
			}
		})
	}
}
