package server

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/wire"
)

// TestLogHasAPace sends, from one address, then from many networks, what each costs a line, and then something else.
func TestLogHasAPace(t *testing.T) {
	l := newBareLab(t)
	l.t = t
	var log bytes.Buffer
	now := time.Now()
	s, err := New(Config{Site: l.site, Store: l.store, Rate: 1e9, Burst: 1e9, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	h := s.Devices()
	send := func(remote, path, body string) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		r.Header.Set("Content-Type", wire.ContentType)
		r.RemoteAddr = remote
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	lines := func(with string) (n int) {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, with) {
				n++
			}
		}
		return n
	}
	report, err := wire.Marshal(&wire.Report{Version: wire.Version, Site: "lab", Stage: "fetch", Reason: "r", Loader: "x"})
	if err != nil {
		t.Fatal(err)
	}
	// The machine may be slow: each second brings half a line more.
	slow := func() int { return int(time.Since(now).Seconds()) + 1 }
	for i := range 1000 {
		send(fmt.Sprintf("192.0.2.1:%d", i+1), wire.PathHello, "no message")
		send("192.0.2.1:1", wire.PathReport, string(report))
	}
	for _, what := range []string{"code=malformed", "device reports"} {
		if n := lines(what); n < logBurst || n > logBurst+slow() {
			t.Errorf("%d lines with %q for 1000 requests, want %d", n, what, logBurst)
		}
	}
	send("192.0.2.1:1", wire.PathHello, `{"version":1,"site":"other","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`)
	if lines("code=policy") != 1 {
		t.Error("another refusal is not logged")
	}
	send("198.51.100.1:1", wire.PathHello, "no message")
	if n := lines("remote=198.51.100.1"); n != 1 || !regexp.MustCompile(`198.51.100.1.*leftOut="\d+ since 20`).MatchString(log.String()) {
		t.Errorf("%d lines of another network; want one, which says how many were left out:\n%s", n, log.String()[log.Len()-400:])
	}
	for i := range 2000 {
		send(fmt.Sprintf("203.0.%d.%d:1", i>>8, i&0xff), wire.PathHello, "no message")
	}
	if n := lines("code=malformed"); n > logNetworks*(logBurst+slow()) {
		t.Errorf("%d lines for 2000 networks, want at most %d", n, logNetworks*logBurst)
	}
	log.Reset()
	for _, kind := range []string{"refused malformed", "device reports"} { // the last may have been written
		s.log.leftOut.add(kind, count{1, now})
	}
	s.keepHouse(t.Context())
	if n := lines("lines left out"); n != 2 || lines(`kind="refused malformed"`) != 1 || lines(`kind="device reports"`) != 1 {
		t.Errorf("afterwards it says\n%s", log.String())
	}
}

// TestLogOfHTTPHasAPace: what net/http says of connections has addresses in its text, and is one kind.
func TestLogOfHTTPHasAPace(t *testing.T) {
	var log bytes.Buffer
	paced := newPacedLog(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server := newHTTP(nil, slog.New(paced).With("a", 1).WithGroup("g"))
	for i := range 1000 {
		server.ErrorLog.Printf("http: TLS handshake error from 192.0.2.1:%d: EOF", i)
	}
	if n := strings.Count(log.String(), "\n"); n < logBurst || n > 2*logBurst {
		t.Errorf("%d lines, want %d", n, logBurst)
	}
	if len(paced.leftOut.n) != 1 {
		t.Errorf("%d kinds, want one", len(paced.leftOut.n))
	}
}

func TestLogTextIsBounded(t *testing.T) {
	var log bytes.Buffer
	l := slog.New(newPacedLog(slog.NewTextHandler(&log, nil)))
	long := strings.Repeat("x", 1<<20)
	l.Info("long", "a", long, "err", errors.New(long), "nothing", error(nil), "n", 7)
	if n := log.Len(); n < 2*maxLogText || n > 2*maxLogText+300 {
		t.Errorf("a line of %d bytes, want two texts of %d", n, maxLogText)
	}
	if !strings.Contains(log.String(), "nothing=<nil> n=7") {
		t.Errorf("the rest is %s", log.String()[max(0, log.Len()-100):])
	}
}
