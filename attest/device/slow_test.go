package device_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestBrokenAnswers: attestd answers over a real connection, and not as it should.
func TestBrokenAnswers(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	good := func(w http.ResponseWriter, r *http.Request) []byte {
		rec := httptest.NewRecorder()
		s.serve(rec, r)
		return rec.Body.Bytes()
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
		says    string
	}{
		"cut, and its length is right": {func(w http.ResponseWriter, r *http.Request) {
			answer := good(w, r)
			w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
			_, _ = w.Write(answer[:len(answer)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, device.ErrUnreachable, "unexpected EOF"},
		"cut without a length": {func(w http.ResponseWriter, r *http.Request) {
			answer := good(w, r)
			_, _ = w.Write(answer[:len(answer)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, device.ErrUnreachable, "unexpected EOF"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write([]byte(strings.Repeat(" ", 4096))); err != nil {
					return
				}
			}
		}, device.ErrProtocol, "above 16384 bytes"},
		"endless header": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1 << 16 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 256))
			}
		}, device.ErrUnreachable, "headers exceeded"},
		"redirected in a circle": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, device.ErrUnreachable, "HTTP 307"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				c.handler(w, r)
			}))
			defer srv.Close()
			client := s.client(m)
			client.URL = srv.URL
			client.HTTP = &http.Client{Transport: &http.Transport{MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true}}
			for step, do := range map[string]func() error{
				"hello": func() error { _, err := client.Hello(t.Context(), ""); return err },
				"boot":  func() error { _, err := client.Boot(t.Context(), m.logs()); return err },
				"ack":   func() error { return client.Ack(t.Context(), &device.Release{}) },
			} {
				asked.Store(0)
				if err := do(); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), srv.URL) {
					t.Errorf("%s: %v; want %v that says %q", step, err, c.want, c.says)
				}
				if n := asked.Load(); n != 1 {
					t.Errorf("%s: attestd was asked %d times", step, n)
				}
			}
		})
	}
	if s.releases != 0 {
		t.Error("M4 left the server")
	}
}

// TestDrip: an answer that comes at one byte a second ends with the deadline of its request. The time is not real.
func TestDrip(t *testing.T) {
	m := start(t, tpmtest.Options{})
	m.measureImage(t)
	s := newSite(t, "shop-1")
	for path, deadline := range map[string]time.Duration{
		wire.PathHello: 20 * time.Second, wire.PathChallenge: 20 * time.Second, wire.PathEvidence: time.Minute,
	} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := s.client(m)
				client.URL = "http://attestd"
				client.HTTP = &http.Client{Transport: &http.Transport{DialContext: serveInMemory(t, s.dripping(path)), DisableKeepAlives: true}}
				began := time.Now()
				var err error
				if path == wire.PathHello {
					_, err = client.Hello(t.Context(), "")
				} else {
					_, err = client.Boot(t.Context(), m.logs())
				}
				if !errors.Is(err, device.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) || strings.Count(err.Error(), path) != 1 {
					t.Errorf("%v; want that attestd did not answer %s in time", err, path)
				}
				if took := time.Since(began); took != deadline {
					t.Errorf("it took %v, want %v", took, deadline)
				}
			})
		})
	}
}

// dripping is this site's attestd, which answers on one path at one byte a second.
func (s *site) dripping(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			s.serve(w, r)
			return
		}
		rec := httptest.NewRecorder()
		s.serve(rec, r)
		for _, b := range rec.Body.Bytes() {
			_, err := w.Write([]byte{b})
			if err = errors.Join(err, http.NewResponseController(w).Flush()); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
}

// serveInMemory serves without a network, whose waiting would hold up a bubble's time.
func serveInMemory(t *testing.T, h http.Handler) func(context.Context, string, string) (net.Conn, error) {
	l := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil { // after the last handler
			t.Error(err)
		}
		<-done
	})
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case l.conns <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	close(l.closed)
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
