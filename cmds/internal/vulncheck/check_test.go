package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const (
	begin  = `{"config":{"db":"x"}}`
	report = `{"osv":{"id":"GO-1","summary":"It explodes"}}`
)

// finding is a message about a report: called, or only in a module.
func finding(module, function string) string {
	return `{"finding":{"osv":"GO-1","fixed_version":"v1.2.4","trace":[{"module":"` + module + `","version":"v1.2.3","function":"` + function + `"}]}}`
}

func TestRun(t *testing.T) {
	down := errors.New("no route to host")
	none := func(context.Context) (string, error) { return "", down }
	here := func(url string) database { return func(context.Context) (string, error) { return url, nil } }
	for _, c := range []struct {
		name      string
		databases []database
		noTool    bool
		output    string
		want      string // on the console
		err       string
		db        string // that was used
	}{
		{name: "no network", databases: []database{none, none}, want: "SKIPPED"},
		{name: "no tool", databases: []database{here("a")}, noTool: true, want: "SKIPPED"},
		{name: "server", databases: []database{here("a"), here("b")}, output: begin, want: "0 known vulnerabilities are called, 0 more", db: "a"},
		{name: "module", databases: []database{none, here("b")}, output: begin, want: "database b", db: "b"},
		{name: "called", databases: []database{here("a")}, output: begin + report + finding("example.org/m", "Boom"), want: "GO-1: example.org/m v1.2.3, mended in 1.2.4: It explodes", err: "known vulnerabilities", db: "a"},
		{name: "Go's own", databases: []database{here("a")}, output: begin + report + finding("stdlib", "Boom"), want: "all of these are Go's own", db: "a"},
		{name: "not called", databases: []database{here("a")}, output: begin + report + finding("example.org/m", ""), want: "0 known vulnerabilities are called, 1 more", db: "a"},
		{name: "called and not", databases: []database{here("a")}, output: begin + finding("stdlib", "Boom") + finding("stdlib", ""), want: "1 known vulnerabilities are called, 0 more", db: "a"},
		{name: "garbage", databases: []database{here("a")}, output: begin + "oops", err: "read govulncheck's output", db: "a"},
		{name: "nothing", databases: []database{here("a")}, err: "said nothing", db: "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			used := ""
			check := &checker{databases: c.databases, out: &out, scanner: func(context.Context) (scan, error) {
				if c.noTool {
					return nil, down
				}
				return func(_ context.Context, db string) ([]byte, error) {
					used = db
					return []byte(c.output), nil
				}, nil
			}}
			err := check.run(t.Context())
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("run: %v, want %q", err, c.err)
			}
			if !strings.Contains(out.String(), c.want) || used != c.db {
				t.Errorf("used %q and said:\n%s\nwant %q and %q", used, out.String(), c.db, c.want)
			}
			if strings.Contains(out.String(), "SKIPPED") && !strings.Contains(out.String(), down.Error()) {
				t.Error("it does not say why it was skipped")
			}
		})
	}
}

// TestInterrupted must not pass for "skipped".
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := &checker{databases: []database{func(ctx context.Context) (string, error) { return "", ctx.Err() }}, out: t.Output()}
	if err := check.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}

func TestServer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/db/index/db.json" {
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	for path, ok := range map[string]bool{"/db": true, "/elsewhere": false} {
		url, err := server(s.Client(), s.URL+path)(t.Context())
		if (err == nil) != ok || ok && url != s.URL+path {
			t.Errorf("%s: %q, %v", path, url, err)
		}
	}
	s.Close()
	if url, err := server(s.Client(), s.URL)(t.Context()); err == nil {
		t.Errorf("a server that is gone: %q", url)
	}
}
