package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	tool         = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
	reports      = "golang.org/x/vulndb@latest"
	answerWithin = 10 * time.Second
	fetchWithin  = 5 * time.Minute
	scanWithin   = 30 * time.Minute // a busy machine needs minutes
)

// errFound means that there is something to mend.
var errFound = errors.New("known vulnerabilities are called; update the modules, or take the calls out")

// A database is a place of reports; it returns the URL for govulncheck, if it answers.
type database func(ctx context.Context) (url string, err error)

// A scan is one run of govulncheck, which returns its JSON messages.
type scan func(ctx context.Context, db string) ([]byte, error)

type checker struct {
	databases []database
	scanner   func(ctx context.Context) (scan, error)
	out       io.Writer
}

func (c *checker) run(ctx context.Context) error {
	db, err := c.pick(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return c.skip(err)
	}
	scan, err := c.scanner(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return c.skip(err)
	}
	fmt.Fprintln(c.out, "vulncheck: database", db)
	text, err := scan(ctx, db)
	if err != nil {
		return err
	}
	return c.judge(text)
}

// pick returns the first database that answers.
func (c *checker) pick(ctx context.Context) (string, error) {
	var errs []error
	for _, d := range c.databases {
		db, err := d(ctx)
		if err == nil {
			return db, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

func (c *checker) skip(why error) error {
	fmt.Fprintf(c.out, "vulncheck: SKIPPED, known vulnerabilities were not looked for:\n  %s\n", strings.ReplaceAll(why.Error(), "\n", "\n  "))
	return nil
}

// message is what is used of a line of govulncheck's output.
type message struct {
	Config *struct {
		LastModified string `json:"db_last_modified"`
	} `json:"config"`
	OSV *struct {
		ID      string `json:"id"`
		Summary string `json:"summary"`
	} `json:"osv"`
	Finding *struct {
		OSV   string `json:"osv"`
		Fixed string `json:"fixed_version"`
		// Trace goes from the vulnerable symbol to this module. Without a function
		// nothing calls it.
		Trace []struct {
			Module   string `json:"module"`
			Version  string `json:"version"`
			Function string `json:"function"`
		} `json:"trace"`
	} `json:"finding"`
}

// judge shows what is called and says whether it is ours to mend.
func (c *checker) judge(text []byte) error {
	summaries := make(map[string]string)
	called := make(map[string]string) // by report
	other := make(map[string]bool)
	seen, ours := false, false
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var m message
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read govulncheck's output: %w", err)
		}
		switch {
		case m.Config != nil:
			seen = true
		case m.OSV != nil:
			summaries[m.OSV.ID] = m.OSV.Summary
		case m.Finding != nil && len(m.Finding.Trace) > 0:
			at := m.Finding.Trace[0]
			if at.Function == "" {
				other[m.Finding.OSV] = true
				continue
			}
			called[m.Finding.OSV] = fmt.Sprintf("%s %s, mended in %s", at.Module, at.Version, strings.TrimPrefix(m.Finding.Fixed, "v"))
			ours = ours || at.Module != "stdlib"
		}
	}
	if !seen {
		return errors.New("govulncheck said nothing")
	}
	for _, id := range slices.Sorted(maps.Keys(called)) {
		fmt.Fprintf(c.out, "vulncheck: %s: %s: %s\n", id, called[id], summaries[id])
		delete(other, id)
	}
	fmt.Fprintf(c.out, "vulncheck: %d known vulnerabilities are called, %d more are in what is required\n", len(called), len(other))
	if ours {
		return errFound
	}
	if len(called) > 0 {
		fmt.Fprintln(c.out, "vulncheck: all of these are Go's own: build what goes into the field with a Go that has them mended")
	}
	return nil
}

// server is Go's own database, at its address.
func server(client *http.Client, url string) database {
	return func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodHead, url+"/index/db.json", nil)
		if err != nil {
			return "", err
		}
		answer, err := client.Do(r)
		if err != nil {
			return "", fmt.Errorf("the database's server: %w", err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return "", fmt.Errorf("the database's server at %s: %s", url, answer.Status)
		}
		return url, nil
	}
}

// module is the newest state of the reports that the module proxy has.
func module(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	out, err := goCommand(ctx, nil, "mod", "download", "-json", reports)
	if err != nil {
		return "", fmt.Errorf("the database as a module: %w", err)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return "", fmt.Errorf("the database as a module: %w", err)
	}
	dir := filepath.Join(m.Dir, "data", "osv")
	if found, err := filepath.Glob(filepath.Join(dir, "GO-*.json")); err != nil || len(found) == 0 {
		return "", fmt.Errorf("the database as a module: no reports in %s", dir)
	}
	return "file://" + dir, nil
}

// install builds govulncheck, once for each version.
func install(ctx context.Context) (scan, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	_, version, _ := strings.Cut(tool, "@")
	bin := filepath.Join(cache, "sealboot", "govulncheck", version)
	program := filepath.Join(bin, "govulncheck")
	if _, err := os.Stat(program); err != nil {
		ctx, cancel := context.WithTimeout(ctx, fetchWithin)
		defer cancel()
		if _, err := goCommand(ctx, []string{"GOBIN=" + bin}, "install", tool); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, db string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, scanWithin)
		defer cancel()
		return output(exec.CommandContext(ctx, program, "-format", "json", "-db", db, "./..."))
	}, nil
}

func goCommand(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	return output(cmd)
}

func output(cmd *exec.Cmd) ([]byte, error) {
	var diag bytes.Buffer
	cmd.Stderr = &diag
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(diag.String() + string(out))
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, said[:min(len(said), 500)])
	}
	return out, nil
}
