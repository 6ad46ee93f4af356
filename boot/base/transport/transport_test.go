package transport

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestNew(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, c := range map[string]struct {
		o   Options
		bad bool
	}{
		"its CA":          {o: Options{CA: ca}},
		"the system's":    {bad: true},
		"another time":    {o: Options{CA: ca, Now: func() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }}, bad: true},
		"TLS 1.3":         {o: Options{CA: ca, MinVersion: tls.VersionTLS13}},
		"never below 1.2": {o: Options{CA: ca, MinVersion: tls.VersionTLS10}},
	} {
		transport, err := New(c.o)
		if err != nil {
			t.Fatal(err)
		}
		if v := transport.TLSClientConfig.MinVersion; v < tls.VersionTLS12 {
			t.Errorf("%s: TLS %#x", name, v)
		}
		answer, err := (&http.Client{Transport: transport}).Get(server.URL)
		if (err != nil) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if body, _ := io.ReadAll(answer.Body); string(body) != "HTTP/1.1" {
			t.Errorf("%s: %s", name, body)
		}
		answer.Body.Close()
		transport.CloseIdleConnections()
	}
	if _, err := New(Options{CA: []byte("no PEM")}); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("a CA without a certificate: %v", err)
	}
}

// TestDeadlines: a transport without one of these hangs a boot.
func TestDeadlines(t *testing.T) {
	transport, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]time.Duration{
		"handshake": transport.TLSHandshakeTimeout, "headers": transport.ResponseHeaderTimeout, "idle": transport.IdleConnTimeout,
	} {
		if d <= 0 || d > time.Minute {
			t.Errorf("%s: %v", name, d)
		}
	}
	if transport.MaxResponseHeaderBytes <= 0 {
		t.Error("headers have no limit")
	}
}
