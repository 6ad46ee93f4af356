package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxMessage is more than any message of the attestation protocol.
const maxMessage = 8 << 20

// mitm is a man in the middle of TLS: he holds a server certificate that the
// device accepts, sees every message, and may change or answer it. It shows
// that nothing but privacy rests on TLS.
type mitm struct {
	server *http.Server
	listen net.Listener
}

// exchange is one message and its answer, as the man in the middle has them.
type exchange struct {
	path            string
	request, answer []byte
	status          int
	contentType     string
	forwardToServer func(body []byte) error // fills in answer, status and contentType
}

// tamperer changes messages; it is called for each and must call
// forwardToServer for those that are to reach the server.
type tamperer func(*exchange) error

// newMITM listens on a loopback port and forwards to target, which it does not
// verify either.
func newMITM(port int, certificate *tls.Certificate, target string, change tamperer) (*mitm, error) {
	l, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{Certificates: []tls.Certificate{*certificate}})
	if err != nil {
		return nil, fmt.Errorf("man in the middle: %w", err)
	}
	client := &http.Client{
		Timeout:   2 * time.Minute,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	m := &mitm{listen: l}
	m.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := relay(w, r, client, target, change); err != nil {
				http.Error(w, "man in the middle: "+err.Error(), http.StatusBadGateway)
			}
		}),
	}
	go func() { _ = m.server.Serve(l) }()
	return m, nil
}

func relay(w http.ResponseWriter, r *http.Request, client *http.Client, target string, change tamperer) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxMessage))
	if err != nil {
		return err
	}
	x := &exchange{path: r.URL.Path, request: body}
	x.forwardToServer = func(body []byte) error {
		req, err := http.NewRequestWithContext(r.Context(), r.Method, target+r.URL.Path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header = r.Header.Clone()
		req.Header.Del("Accept-Encoding")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		x.status, x.contentType = resp.StatusCode, resp.Header.Get("Content-Type")
		x.answer, err = io.ReadAll(io.LimitReader(resp.Body, maxMessage))
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	if x.status == 0 {
		return errors.New("the message was swallowed")
	}
	w.Header().Set("Content-Type", x.contentType)
	w.WriteHeader(x.status)
	_, err = w.Write(x.answer)
	return err
}

func (m *mitm) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		m.server.Close()
	}
}
