package lab

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sealboot/sealboot/qemu"
)

// quiet is how long a stage may print nothing before it says that it goes on.
const quiet = 10 * time.Second

// stages prints what is being done and how long it took, and remembers both.
// It is safe for use by several goroutines.
type stages struct {
	start time.Time

	mu     sync.Mutex
	out    io.Writer
	done   []StageTime
	began  time.Time // of the running stage
	spoke  time.Time // the last time that something was printed
	latest string    // line of output of what runs in it
}

// StageTime is how long one stage of a run took.
type StageTime struct {
	Name string
	Took time.Duration
}

func newStages(out io.Writer) *stages { return &stages{out: out, start: time.Now()} }

// run does one stage. An error names the stage.
func (s *stages) run(name string, f func() error) error {
	began := time.Now()
	s.mu.Lock()
	s.began, s.latest = began, ""
	s.mu.Unlock()
	s.print("  %s ...", name)
	stop := s.reassure()
	err := f()
	stop()
	if err != nil {
		return &StageError{Stage: name, Err: err}
	}
	took := time.Since(began)
	s.mu.Lock()
	s.done = append(s.done, StageTime{name, took})
	s.mu.Unlock()
	s.print("  %s: done in %.1f s", name, took.Seconds())
	return nil
}

// note prints one line that belongs to the running stage.
func (s *stages) note(format string, args ...any) { s.print("    "+format, args...) }

func (s *stages) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoke = time.Now()
	fmt.Fprintf(s.out, "[%6.1f s]%s\n", s.spoke.Sub(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// Write passes a machine's console on.
func (s *stages) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoke = time.Now()
	return s.out.Write(b)
}

// line takes a line that a program of the running stage printed. It is shown
// only when nothing else is.
func (s *stages) line(line string) {
	if line = strings.Join(strings.Fields(printable(line)), " "); line == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = line
}

// reassure shows now and then that the running stage goes on, until stop is called.
func (s *stages) reassure() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticks := time.NewTicker(time.Second)
		defer ticks.Stop()
		for {
			select {
			case now := <-ticks.C:
				if text := s.silence(now); text != "" {
					s.note("%s", text)
				}
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// sayWhenStopped says that an interruption was heard, until done is called:
// cleaning up can take a while.
func (s *stages) sayWhenStopped(ctx context.Context) (done func()) {
	stop := context.AfterFunc(ctx, func() { s.note("interrupted: stopping what runs") })
	return func() { stop() }
}

// silence is what to say about it at a moment; empty for nothing.
func (s *stages) silence(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.spoke) < quiet {
		return ""
	}
	text := fmt.Sprintf("%.0f s so far", now.Sub(s.began).Seconds())
	if s.latest != "" {
		text += ": " + s.latest
	}
	const room = 64 // in 80 columns
	if len(text) > room {
		text = text[:room-3] + "..."
	}
	return text
}

// printable is text without what moves a cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, qemu.Plain(s))
}

// StageError says which stage of a run failed.
type StageError struct {
	Stage string
	Err   error
}

func (e *StageError) Error() string { return e.Stage + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *StageError) Unwrap() error { return e.Err }

// table prints rows in aligned columns.
func table(out io.Writer, title string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s\n", title)
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len(c))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			fmt.Fprintf(&b, "  %-*s", width[i], c)
		}
		fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
	}
}
