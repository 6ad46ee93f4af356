package lab

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// stages prints what is being done and how long it took, and remembers both.
type stages struct {
	out   io.Writer
	start time.Time

	mu   sync.Mutex
	done []StageTime
	now  string
}

// StageTime is how long one stage of a run took.
type StageTime struct {
	Name string
	Took time.Duration
}

// run does one stage. An error names the stage.
func (s *stages) run(name string, f func() error) error {
	s.mu.Lock()
	s.now = name
	s.mu.Unlock()
	fmt.Fprintf(s.out, "%s  %s ...\n", s.clock(), name)
	began := time.Now()
	if err := f(); err != nil {
		return &StageError{Stage: name, Err: err}
	}
	took := time.Since(began)
	s.mu.Lock()
	s.done = append(s.done, StageTime{name, took})
	s.mu.Unlock()
	fmt.Fprintf(s.out, "%s  %s: done in %.1f s\n", s.clock(), name, took.Seconds())
	return nil
}

// note prints one line that belongs to the running stage.
func (s *stages) note(format string, args ...any) {
	fmt.Fprintf(s.out, "%s    %s\n", s.clock(), fmt.Sprintf(format, args...))
}

func (s *stages) clock() string {
	return fmt.Sprintf("[%6.1f s]", time.Since(s.start).Seconds())
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
