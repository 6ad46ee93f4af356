package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/sealboot/sealboot/measure/redact"
)

// Mirror is one place that serves blobs.
type Mirror interface {
	// String names the mirror in errors.
	String() string
	// Get sends one GET for b. byteRange is the value of the Range header.
	// The body of the response must end when ctx ends.
	Get(ctx context.Context, b Blob, byteRange string) (*http.Response, error)
}

// HTTP is a [Mirror] that serves each blob under a URL of its own.
type HTTP struct {
	Name   string
	Client interface {
		Do(*http.Request) (*http.Response, error)
	}
	URL func(Blob) string
}

func (h HTTP) String() string { return h.Name }

// Get implements [Mirror].
func (h HTTP) Get(ctx context.Context, b Blob, byteRange string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL(b), nil)
	if err != nil {
		return nil, err
	}
	// A transparent compression would make the range one of other bytes.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Range", byteRange)
	resp, err := h.Client.Do(req)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("%s: %w", failed.Op, failed.Err) // the mirror has a name
	}
	return resp, redact.Error(err)
}

// mirror adds what all transfers learn about a Mirror.
type mirror struct {
	Mirror
	opt   *Options
	speed speed

	mu        sync.Mutex
	failures  int       // in a row
	notBefore time.Time // do not ask again earlier
}

// failed notes a failure and sets the pause before the next request: doubled
// each time, with up to half of it taken off at random so that a fleet does not
// come back at once, and never shorter than the server asked for.
func (m *mirror) failed(retryAfter time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pause := m.opt.MaxBackoff
	if m.failures < 20 {
		pause = min(pause, m.opt.MinBackoff<<m.failures)
	}
	m.failures++
	pause -= time.Duration(rand.Int64N(int64(pause/2) + 1))
	pause = max(pause, min(retryAfter, m.opt.MaxBackoff))
	if t := time.Now().Add(pause); t.After(m.notBefore) {
		m.notBefore = t
	}
}

func (m *mirror) succeeded() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = 0
	m.notBefore = time.Time{}
}

// wait is how long the mirror wants to be left alone.
func (m *mirror) wait() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notBefore.IsZero() {
		return 0
	}
	return max(0, time.Until(m.notBefore))
}
