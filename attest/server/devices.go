package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/sealboot/sealboot/attest/agent/api"
	"github.com/sealboot/sealboot/attest/wire"
)

// Devices is the API of attest/wire and, for agents with a certificate, of attest/agent/api.
func (s *Server) Devices() http.Handler {
	mux := http.NewServeMux()
	post := func(path string, limit int64, h handler) { mux.Handle("POST "+path, s.endpoint(path, limit, h)) }
	post(wire.PathHello, wire.MaxMessage, s.hello)
	post(wire.PathChallenge, wire.MaxMessage, s.challenge)
	post(wire.PathEvidence, wire.MaxEvidence, s.evidence)
	post(wire.PathAck, wire.MaxMessage, s.ack)
	post(wire.PathReport, wire.MaxMessage, s.report)
	post(api.PathWhoami, wire.MaxMessage, s.agent(s.whoami))
	post(api.PathHealth, wire.MaxMessage, s.agent(s.health))
	return mux
}

// handler answers the body of a request. An error becomes a [wire.Failure]: a *failure says which, any
// other is logged here and shown to no one.
type handler func(ctx context.Context, r *http.Request, body []byte) ([]byte, error)

// failure is an answer that is not a success.
type failure struct {
	status   int
	code     wire.Code
	decision string
	reasons  []wire.Reason
	cause    error // for the log only
}

func (f *failure) Error() string {
	return fmt.Sprintf("%s: %v", f.code, f.cause)
}

func (f *failure) Unwrap() error { return f.cause }

// refuse is a failure with one reason.
func refuse(status int, code wire.Code, detail string, cause error) *failure {
	f := &failure{status: status, code: code, cause: cause}
	if detail != "" {
		f.reasons = []wire.Reason{{Code: code, Detail: detail}}
	}
	return f
}

func malformed(err error) *failure {
	return refuse(http.StatusBadRequest, wire.CodeMalformed, "", err)
}

// endpoint wraps a handler with what all have in common: rate, size and type of the body, a panic that
// ends in a denial, counting.
func (s *Server) endpoint(path string, limit int64, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.run(w, r, limit, h)
		status := http.StatusOK
		if err != nil {
			status, answer = s.explain(r, path, err)
		}
		s.metrics.requests.WithLabelValues(path, strconv.Itoa(status)).Inc()
		head := w.Header()
		head.Set("Content-Type", wire.ContentType)
		head.Set("Cache-Control", "no-store")
		if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
			head.Set("Retry-After", "5")
		}
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	})
}

func (s *Server) run(w http.ResponseWriter, r *http.Request, limit int64, h handler) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Log.Error("panic", "value", p, "stack", string(debug.Stack()))
			answer, err = nil, errors.New("internal error")
		}
	}()
	from := network(r.RemoteAddr)
	if !s.limiter.allow("", from, s.Now()) {
		s.metrics.limited.Inc()
		return nil, refuse(http.StatusTooManyRequests, wire.CodeUnavailable, "", errors.New("rate limit"))
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != wire.ContentType {
		return nil, refuse(http.StatusUnsupportedMediaType, wire.CodeMalformed, "", fmt.Errorf("content type %q", wire.Clean(r.Header.Get("Content-Type"))))
	}
	var in io.Reader = http.MaxBytesReader(w, r.Body, limit)
	if limit > wire.MaxMessage {
		charged := s.bodies.reader(in, from)
		defer charged.release()
		in = charged
	}
	body, err := io.ReadAll(in)
	s.limiter.spend("", from, float64(len(body))/bytesPerToken, s.Now())
	var tooLarge *http.MaxBytesError
	if errors.Is(err, errBusy) {
		s.metrics.busy.Inc()
		return nil, refuse(http.StatusServiceUnavailable, wire.CodeUnavailable, "", err)
	}
	if errors.As(err, &tooLarge) {
		return nil, refuse(http.StatusRequestEntityTooLarge, wire.CodeMalformed, "", err)
	}
	if err != nil {
		return nil, malformed(err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
	defer cancel()
	return h(ctx, r, body)
}

// explain turns an error into an answer.
func (s *Server) explain(r *http.Request, path string, err error) (int, []byte) {
	var f *failure
	if !errors.As(err, &f) {
		s.Log.Error("request failed", "path", path, "remote", r.RemoteAddr, "err", err)
		return http.StatusServiceUnavailable, wire.NewFailure(wire.CodeUnavailable, "", nil)
	}
	s.Log.Info("refused", "path", path, "remote", r.RemoteAddr, "code", f.code, "decision", f.decision, "err", f.cause)
	return f.status, wire.NewFailure(f.code, f.decision, f.reasons)
}
