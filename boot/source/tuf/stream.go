package tuf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// Streamed is [Targets] on a web server, fetched with plain requests into a
// file of the caller's choice. It knows every digest that TUF does. A broken
// connection is resumed where it broke.
type Streamed struct {
	// URL is the directory of the targets.
	URL string
	// Client does the requests; nil is [http.DefaultTransport] without cookies.
	Client *http.Client
	// Create returns an empty file to download into.
	Create func() (*os.File, error)
	// Idle is the time in which the server must send 4 KiB; 0 means 30 s.
	Idle time.Duration
	// Resumes is how often in a row a connection may break without having
	// brought anything; 0 means 3.
	Resumes int
}

const (
	defaultIdle    = 30 * time.Second
	defaultResumes = 3
	copyBuffer     = 256 << 10
	minProgress    = 4 << 10
)

// Target implements [Targets].
func (s Streamed) Target(ctx context.Context, path string, want Want) (*os.File, error) {
	def(&s.Idle, defaultIdle)
	def(&s.Resumes, defaultResumes)
	f, err := s.Create()
	if err != nil {
		return nil, fmt.Errorf("create a file to download into: %w", err)
	}
	url := targetURL(s.URL, path)
	if err := s.fill(ctx, url, want, f); err != nil {
		return nil, errors.Join(fmt.Errorf("fetch %s: %w", url, err), f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s Streamed) fill(ctx context.Context, url string, want Want, dst io.Writer) error {
	v := want.Verifier()
	for failures := 0; ; {
		before := v.Written()
		err := s.request(ctx, url, want.Size, v, dst)
		if err == nil {
			return v.Verify()
		}
		var broken *brokenError
		if !errors.As(err, &broken) || ctx.Err() != nil || v.Written() == 0 {
			return err
		}
		if failures++; v.Written() > before {
			failures = 0
		}
		if failures == s.Resumes {
			return err
		}
	}
}

// brokenError is a connection that ended too early: the rest may be asked for.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// request asks for what v has not seen yet and copies it to v and dst.
func (s Streamed) request(ctx context.Context, url string, size int64, v *Verifier, dst io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(s.Idle, func() {
		cancel(fmt.Errorf("less than %d bytes came in %s", minProgress, s.Idle))
	})
	defer idle.Stop()

	status, byteRange, have := http.StatusOK, "", v.Written()
	if have > 0 {
		status, byteRange = http.StatusPartialContent, fmt.Sprintf("bytes=%d-%d", have, size-1)
	}
	resp, err := get(ctx, s.Client, url, byteRange)
	if err != nil {
		return broken(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != status {
		return fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	if r := resp.Header.Get("Content-Range"); have > 0 && r != fmt.Sprintf("bytes %d-%d/%d", have, size-1, size) {
		return fmt.Errorf("asked for %s, got %s", byteRange, quote(r))
	}
	if have+resp.ContentLength > size {
		return fmt.Errorf("%w: the server announces %d bytes, expected %d", ErrMismatch, have+resp.ContentLength, size)
	}
	return s.copy(ctx, io.MultiWriter(v, dst), resp.Body, idle)
}

func (s Streamed) copy(ctx context.Context, dst io.Writer, body io.Reader, idle *time.Timer) error {
	buf := make([]byte, copyBuffer)
	for progress := 0; ; {
		n, err := body.Read(buf)
		if n > 0 {
			if progress += n; progress >= minProgress {
				idle.Reset(s.Idle)
				progress = 0
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broken(ctx, err)
		}
	}
}

// broken marks a failure of the connection, with the reason if we ended it.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &brokenError{err}
}
