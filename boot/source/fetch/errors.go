package fetch

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrUnsupported is a blob that this package can not fetch from anywhere.
	ErrUnsupported = errors.New("unsupported blob")
	// ErrDigest is content that is complete but not what was asked for.
	ErrDigest = errors.New("content does not match its digest")
	// ErrStalled is a request that brought too little in Options.IdleTimeout.
	ErrStalled = errors.New("no progress")
	// ErrSlow is a request that another mirror is to finish, sooner.
	ErrSlow = errors.New("too slow")
	// ErrNoRange is a server that can not send the rest of a blob.
	ErrNoRange = errors.New("server does not resume")
	// ErrProtocol is an answer that contradicts the request or itself.
	ErrProtocol = errors.New("malformed answer")
)

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// StatusError is an HTTP status that is not an answer to the request.
type StatusError struct {
	Code       int
	RetryAfter time.Duration // 0 if the server did not say
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("HTTP status %d", e.Code)
}

// permanent reports whether asking the same server again is useless.
func (e *StatusError) permanent() bool {
	return e.Code >= 400 && e.Code < 500 && e.Code != 408 && e.Code != 425 && e.Code != 429 && e.Code != 416
}

// Error is the end of a blob for which every mirror was given up.
type Error struct {
	Mirrors []MirrorError // in the order of preference
}

// MirrorError is the last failure of one mirror.
type MirrorError struct {
	Mirror string
	Err    error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("every mirror failed:")
	for i, m := range e.Mirrors {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, " %s: %v", m.Mirror, m.Err)
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As every mirror's failure.
func (e *Error) Unwrap() []error {
	errs := make([]error, len(e.Mirrors))
	for i, m := range e.Mirrors {
		errs[i] = m.Err
	}
	return errs
}
