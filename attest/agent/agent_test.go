package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/agent/api"
	"github.com/sealboot/sealboot/attest/ca"
)

// fakeKey is an agent key in memory, with an authority that renews its certificate for some device.
type fakeKey struct {
	key       *ecdsa.PrivateKey
	authority *ca.CA
	device    string
	renewed   int
}

func (k *fakeKey) Signer(context.Context, []byte, *x509.Certificate) (crypto.Signer, error) {
	return k.key, nil
}

func (k *fakeKey) Renew(context.Context) (cert, approval []byte, err error) {
	k.renewed++
	cert, err = k.authority.Agent(&k.key.PublicKey, k.device, "d2")
	return cert, []byte("approval"), err
}

// attestd answers the agent's calls and counts them.
type attestd struct {
	*httptest.Server
	calls  []string
	health api.Health
}

func startAttestd(t *testing.T) *attestd {
	t.Helper()
	s := &attestd{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls = append(s.calls, r.URL.Path)
		if r.URL.Path == api.PathHealth {
			if err := json.NewDecoder(r.Body).Decode(&s.health); err != nil {
				t.Error(err)
			}
		}
		if err := json.NewEncoder(w).Encode(api.Identity{Device: deviceID}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func newTestAgent(t *testing.T, s *attestd, caNow func() time.Time) (*Agent, *fakeKey) {
	t.Helper()
	dir := writeHandover(t, true)
	if err := os.WriteFile(filepath.Join(dir, FileApproval), []byte("old"), 0o400); err != nil {
		t.Fatal(err)
	}
	h, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	h.Result.URL = s.URL
	h.Uptime = func() time.Duration { return 0 } // that of the machine that tests is not the device's
	h.SiteCA = x509.NewCertPool()
	h.SiteCA.AddCert(s.Certificate())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority, _, err := ca.Create("site", key, caNow)
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKey{key: key, authority: authority, device: deviceID}
	return &Agent{Handover: h, Key: k, Log: slog.New(slog.DiscardHandler), Healthy: func(context.Context) error { return nil }}, k
}

func TestOnce(t *testing.T) {
	s := startAttestd(t)
	a, k := newTestAgent(t, s, time.Now)
	if err := a.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.calls, " "); got != api.PathWhoami+" "+api.PathHealth+" "+api.PathWhoami {
		t.Errorf("calls %s", got)
	}
	if s.health.Boot != "d1" {
		t.Errorf("health of boot %q, want that of the release", s.health.Boot)
	}
	if k.renewed != 1 || a.Handover.Identity.Decision != "d2" {
		t.Errorf("renewed %d times, decision %s", k.renewed, a.Handover.Identity.Decision)
	}
	// The next process finds the new certificate.
	again, err := Open(a.Handover.Dir)
	if err != nil || again.Identity.Decision != "d2" {
		t.Errorf("on disk: %+v, %v", again, err)
	}
	if text, err := os.ReadFile(filepath.Join(a.Handover.Dir, FileApproval)); err != nil || string(text) != "approval" {
		t.Errorf("approval %q, %v", text, err)
	}
}

func TestUnhealthyIsNotReported(t *testing.T) {
	s := startAttestd(t)
	a, k := newTestAgent(t, s, time.Now)
	broken := errors.New("degraded")
	a.Healthy = func(context.Context) error { return broken }
	if err := a.Once(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Once: %v", err)
	}
	if len(s.calls) != 1 || k.renewed != 0 {
		t.Errorf("calls %v, renewed %d", s.calls, k.renewed)
	}
}

// TestRefusal: an answer that is no success must not pass for one, whatever is in it.
func TestRefusal(t *testing.T) {
	s := startAttestd(t)
	a, _ := newTestAgent(t, s, time.Now)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		if err := json.NewEncoder(w).Encode(api.Identity{Device: deviceID}); err != nil {
			t.Error(err)
		}
	})
	if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("Once: %v, want the refusal", err)
	}
}

func TestForeignCertificateIsRefused(t *testing.T) {
	s := startAttestd(t)
	a, k := newTestAgent(t, s, time.Now)
	before, err := os.ReadFile(filepath.Join(a.Handover.Dir, FileCertificate))
	if err != nil {
		t.Fatal(err)
	}
	k.device = strings.Repeat("cd", 32)
	if err := a.Once(t.Context()); err == nil || !strings.Contains(err.Error(), k.device) {
		t.Errorf("Once: %v", err)
	}
	after, err := os.ReadFile(filepath.Join(a.Handover.Dir, FileCertificate))
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the foreign certificate was kept")
	}
}

func TestRenewalAtHalfLife(t *testing.T) {
	a, _ := newTestAgent(t, startAttestd(t), time.Now)
	c := a.Handover.Certificate
	half := c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
	if d := a.untilRenewal(half.Add(-time.Minute)); d != time.Minute {
		t.Errorf("a minute before half of its life: %v", d)
	}
	for range 100 {
		if d := stretch(time.Minute); d < time.Minute || d > 75*time.Second {
			t.Fatalf("stretch = %v", d)
		}
	}
}

// TestDeadClock has an agent in an OS whose clock is a year behind: the time that attestd gave at this boot, and what has
// passed since, still gets it through to attestd and has it renew in time.
func TestDeadClock(t *testing.T) {
	real := func() time.Time { return time.Now().Add(365 * 24 * time.Hour) }
	s := startAttestd(t)
	a, k := newTestAgent(t, s, real)
	cert := fresh(t, real())
	s.TLS.Certificates = []tls.Certificate{cert}
	a.Handover.SiteCA = x509.NewCertPool()
	a.Handover.SiteCA.AddCert(cert.Leaf)
	a.Handover.Result.IssuedAt = real().Add(-time.Hour).Unix()
	a.Handover.Uptime = func() time.Duration { return time.Hour }
	if err := a.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if wait := a.untilRenewal(a.Handover.Now()); k.renewed == 0 || wait <= 0 || wait > ca.AgentLife {
		t.Errorf("renewed %d times, the next in %v", k.renewed, wait)
	}
	// A clock that was set meanwhile counts.
	set := real().Add(time.Minute)
	a.Handover.system = func() time.Time { return set }
	if got := a.Handover.Now(); !got.Equal(set) {
		t.Errorf("Now = %v, want the system's %v", got, set)
	}
}

// TestClockAhead has an agent in an OS whose clock somebody has set a year ahead: by that, attestd's certificate has
// ended. Where it is attestd's clock that was wrong at this boot, the system's counts again.
func TestClockAhead(t *testing.T) {
	s := startAttestd(t)
	a, k := newTestAgent(t, s, time.Now)
	cert := fresh(t, time.Now())
	s.TLS.Certificates = []tls.Certificate{cert}
	a.Handover.SiteCA = x509.NewCertPool()
	a.Handover.SiteCA.AddCert(cert.Leaf)
	a.Handover.Result.IssuedAt = time.Now().Add(-time.Hour).Unix()
	a.Handover.Uptime = func() time.Duration { return time.Hour }
	a.Handover.system = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	if err := a.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if wait := a.untilRenewal(a.Handover.Now()); k.renewed == 0 || wait <= 0 || wait > ca.AgentLife {
		t.Errorf("renewed %d times, the next in %v", k.renewed, wait)
	}
	a.Handover.Result.IssuedAt = time.Now().AddDate(-1, 0, 0).Unix()
	a.Handover.system = time.Now
	if err := a.Once(t.Context()); err != nil {
		t.Errorf("attestd's clock was a year behind at this boot: %v", err)
	}
}

// fresh is a certificate of a server at 127.0.0.1, as young as attestd's.
func fresh(t *testing.T, now time.Time) tls.Certificate {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestRunEndsWithItsContext(t *testing.T) {
	s := startAttestd(t)
	a, _ := newTestAgent(t, s, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	a.Healthy = func(context.Context) error { cancel(); return nil }
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
