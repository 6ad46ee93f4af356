package qemu

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"sync"
)

// console collects what a guest prints and lets several readers wait for it.
type console struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced whenever text grows or ends
	ended   bool
	copies  []io.Writer
	seen    int // how far Expect has read
}

// maxConsole bounds what is kept in memory; the log file keeps everything.
const maxConsole = 64 << 20

func newConsole(copies ...io.Writer) *console {
	return &console{changed: make(chan struct{}), copies: copies}
}

// Write implements io.Writer. A failing copy never stops the machine.
func (c *console) Write(p []byte) (int, error) {
	for _, w := range c.copies {
		_, _ = w.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.text)+len(p) <= maxConsole {
		c.text = append(c.text, p...)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

// end wakes everybody for the last time.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		close(c.changed)
	}
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// escapes are the terminal control sequences that firmware paints with.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?=]*[A-Za-z]|[=>78])|\r`)

// Plain returns console output without what moves the cursor or paints, for
// people and for messages.
func Plain(text string) string { return escapes.ReplaceAllString(text, "") }

// expect waits until re matches after the last match, and returns the match
// and its groups. Output is matched as printed, line ends normalised.
func (c *console) expect(ctx context.Context, re *regexp.Regexp) ([]string, error) {
	for {
		c.mu.Lock()
		rest, ended, changed := c.text[c.seen:], c.ended, c.changed
		loc := re.FindSubmatchIndex(rest)
		if loc != nil {
			c.seen += loc[1]
		}
		c.mu.Unlock()
		if loc != nil {
			groups := make([]string, len(loc)/2)
			for i := range groups {
				if loc[2*i] >= 0 {
					groups[i] = string(rest[loc[2*i]:loc[2*i+1]])
				}
			}
			return groups, nil
		}
		if ended {
			return nil, fmt.Errorf("%w without printing %q; its last lines: %s", ErrExited, re, tail(rest))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w waiting for %q: %w; last lines: %s", ErrDeadline, re, context.Cause(ctx), tail(rest))
		}
	}
}

// tail returns the end of a console in a form that fits into an error.
func tail(text []byte) string {
	const keep = 600
	plain := Plain(string(text))
	return fmt.Sprintf("%q", plain[max(0, len(plain)-keep):])
}
