// Package faultproxy makes an HTTP server misbehave, for tests. It stands
// between a client and a handler that serves blobs, and counts the bytes of
// bodies that it lets through, so that a test can tell what was sent twice.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Fault answers a request in place of next.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Proxy is an [http.Handler] that applies a fault to each request.
type Proxy struct {
	Next http.Handler
	// Pick chooses the fault of the n-th request, from 0; nil and a nil
	// result let it pass.
	Pick func(r *http.Request, n int) Fault

	requests atomic.Int64
	sent     atomic.Int64
}

// Requests is the number of requests received.
func (p *Proxy) Requests() int { return int(p.requests.Load()) }

// Sent is the number of body bytes sent.
func (p *Proxy) Sent() int64 { return p.sent.Load() }

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(p.requests.Add(1) - 1)
	w = &counter{w, &p.sent}
	if p.Pick != nil {
		if fault := p.Pick(r, n); fault != nil {
			fault(w, r, p.Next)
			return
		}
	}
	p.Next.ServeHTTP(w, r)
}

// Always picks the same fault for every request.
func Always(f Fault) func(*http.Request, int) Fault {
	return func(*http.Request, int) Fault { return f }
}

// First picks the faults in turn, and then none.
func First(faults ...Fault) func(*http.Request, int) Fault {
	return func(_ *http.Request, n int) Fault {
		if n < len(faults) {
			return faults[n]
		}
		return nil
	}
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// filter passes a body through body, and a header through header.
type filter struct {
	http.ResponseWriter
	header func(code int, h http.Header) int
	body   func(w io.Writer, p []byte) error
	wrote  bool
}

func (f *filter) WriteHeader(code int) {
	if f.wrote {
		return
	}
	f.wrote = true
	if f.header != nil {
		code = f.header(code, f.ResponseWriter.Header())
	}
	f.ResponseWriter.WriteHeader(code)
}

func (f *filter) Write(p []byte) (int, error) {
	f.WriteHeader(http.StatusOK)
	if f.body == nil {
		return f.ResponseWriter.Write(p)
	}
	if err := f.body(f.ResponseWriter, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// errEnough ends a handler early; its writes go nowhere.
var errEnough = errors.New("enough sent")

// after calls end once n bytes of the body were sent.
func after(n int64, end func()) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		left, ended := n, false
		body := func(w io.Writer, p []byte) error {
			if ended {
				return errEnough
			}
			p = p[:min(int64(len(p)), left)]
			left -= int64(len(p))
			if _, err := w.Write(p); err != nil {
				return err
			}
			if left == 0 {
				ended = true
				_ = http.NewResponseController(w.(http.ResponseWriter)).Flush()
				end()
				return errEnough
			}
			return nil
		}
		next.ServeHTTP(&filter{ResponseWriter: w, body: body}, r)
	}
}

// Cut drops the connection after n bytes of the body.
func Cut(n int64) Fault { return after(n, func() { panic(http.ErrAbortHandler) }) }

// Stall sends nothing more after n bytes of the body, until the client leaves.
func Stall(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		after(n, func() { <-r.Context().Done() })(w, r, next)
	}
}

// Truncate ends the body after n bytes in the way of a complete answer.
func Truncate(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		left := n
		next.ServeHTTP(&filter{
			ResponseWriter: w,
			header:         func(code int, h http.Header) int { h.Del("Content-Length"); return code },
			body: func(w io.Writer, p []byte) error {
				p = p[:min(int64(len(p)), left)]
				left -= int64(len(p))
				if _, err := w.Write(p); err != nil {
					return err
				}
				// Or the server would find out the length by itself.
				return http.NewResponseController(w.(http.ResponseWriter)).Flush()
			},
		}, r)
	}
}

// Header rewrites the status and the header of an answer.
func Header(edit func(code int, h http.Header) int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&filter{ResponseWriter: w, header: edit}, r)
	}
}

// ContentRange lies in the header of that name.
func ContentRange(value string) Fault {
	return Header(func(code int, h http.Header) int {
		h.Set("Content-Range", value)
		return code
	})
}

// ContentLength announces n bytes, whatever comes.
func ContentLength(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var sent int64
		next.ServeHTTP(&filter{
			ResponseWriter: w,
			header: func(code int, h http.Header) int {
				h.Set("Content-Length", strconv.FormatInt(n, 10))
				return code
			},
			body: func(w io.Writer, p []byte) error {
				p = p[:min(int64(len(p)), n-sent)]
				sent += int64(len(p))
				_, err := w.Write(p)
				return err
			},
		}, r)
	}
}

// IgnoreRange always sends the whole blob.
func IgnoreRange(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("Range")
	next.ServeHTTP(w, r)
}

// Corrupt changes every byte of the body behind the first n.
func Corrupt(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var pos int64
		next.ServeHTTP(&filter{ResponseWriter: w, body: func(w io.Writer, p []byte) error {
			q := bytes.Clone(p)
			for i := range q {
				if pos+int64(i) >= n {
					q[i] ^= 0x55
				}
			}
			pos += int64(len(p))
			_, err := w.Write(q)
			return err
		}}, r)
	}
}

// Status answers with a status and, if not empty, a Retry-After.
func Status(code int, retryAfter string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
	}
}

// RedirectLoop sends the client to where it is.
func RedirectLoop(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
}

// Endless sends zeros for ever, with no length.
func Endless(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	zeros := make([]byte, 64<<10)
	for r.Method != http.MethodHead { // which would take it all
		if _, err := w.Write(zeros); err != nil {
			return
		}
	}
}

// Throttle sends n bytes each period: a slow link, or one byte a second.
func Throttle(n int, period time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		left := n
		next.ServeHTTP(&filter{ResponseWriter: w, body: func(w io.Writer, p []byte) error {
			for len(p) > 0 {
				k := min(left, len(p))
				if _, err := w.Write(p[:k]); err != nil {
					return err
				}
				p = p[k:]
				if left -= k; left > 0 {
					continue
				}
				left = n
				_ = http.NewResponseController(w.(http.ResponseWriter)).Flush()
				select {
				case <-time.After(period):
				case <-r.Context().Done():
					return context.Cause(r.Context())
				}
			}
			return nil
		}}, r)
	}
}

// Network joins clients to handlers without sockets, so that a test in a
// [testing/synctest] bubble has no real time in it. Its zero value is usable.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*pipeListener
	stop  []func()
}

// Handle serves host with h.
func (n *Network) Handle(host string, h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[string]*pipeListener)
	}
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h}
	n.hosts[host] = l
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // always returns an error when it is closed
	}()
	n.stop = append(n.stop, func() { _ = srv.Close(); <-done })
}

// Dial is for [http.Transport.DialContext].
func (n *Network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.hosts[host]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no host %q", host)
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Client returns a client of the network's hosts.
func (n *Network) Client() *http.Client {
	t := &http.Transport{DialContext: n.Dial}
	n.mu.Lock()
	n.stop = append(n.stop, t.CloseIdleConnections)
	n.mu.Unlock()
	return &http.Client{Transport: t}
}

// Close ends every server.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, stop := range n.stop {
		stop()
	}
}

type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
