package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is a line of go test -json: see "go doc cmd/test2json" and, for what builds
// print, "go help buildjson".
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

// report prints what runs at the same time say, a whole package at once.
type report struct {
	mu    sync.Mutex
	out   io.Writer
	times []duration
}

type duration struct {
	test  string
	taken time.Duration
}

// read takes in one go test's events to the end.
func (r *report) read(events io.Reader, part string) error {
	printed := map[string]*strings.Builder{} // by package and test
	add := func(key, text string) {
		if printed[key] == nil {
			printed[key] = &strings.Builder{}
		}
		printed[key].WriteString(text)
	}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading what go test says: %w", err)
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			r.print(line) // not an event: go test's own words
			continue
		}
		key := e.Package + " " + e.Test
		switch {
		case e.Action == "build-output":
			r.print(e.Output)
		case e.Action == "output" && e.Test == "" && e.Output == "PASS\n":
		case e.Action == "output":
			add(key, e.Output)
		case e.Test != "" && (e.Action == "pass" || e.Action == "skip"):
			delete(printed, key)
			r.took(e)
		case e.Test != "" && e.Action == "fail":
			if b := printed[key]; b != nil {
				add(e.Package+" ", b.String())
			}
			delete(printed, key)
			r.took(e)
		case e.Action == "pass" || e.Action == "skip" || e.Action == "fail":
			r.printPackage(e, printed, part)
		}
	}
}

// printPackage prints what is left of a package that has ended: its own lines, what its
// failed tests said, and what those said that a crash ended.
func (r *report) printPackage(e event, printed map[string]*strings.Builder, part string) {
	var text strings.Builder
	own := e.Package + " "
	if e.Action == "fail" {
		for key, b := range printed {
			if key != own && strings.HasPrefix(key, own) {
				text.WriteString(b.String())
			}
		}
	}
	if b := printed[own]; b != nil {
		text.WriteString(b.String())
	}
	if part != "" {
		fmt.Fprintf(&text, "    (this part: %s)\n", part)
	}
	for key := range printed {
		if strings.HasPrefix(key, own) {
			delete(printed, key)
		}
	}
	r.print(text.String())
}

func (r *report) print(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = io.WriteString(r.out, text)
}

// took remembers the time of a whole test.
func (r *report) took(e event) {
	if strings.Contains(e.Test, "/") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := time.Duration(e.Elapsed * float64(time.Second))
	r.times = append(r.times, duration{e.Package + " " + e.Test, taken})
}

// printSlowest prints the n tests that took longest.
func (r *report) printSlowest(n int) {
	slices.SortStableFunc(r.times, func(a, b duration) int { return cmp.Compare(b.taken, a.taken) })
	r.print("the slowest tests:\n")
	for _, d := range r.times[:min(n, len(r.times))] {
		r.print(fmt.Sprintf("%9.1f s  %s\n", d.taken.Seconds(), d.test))
	}
}
