package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
)

// TestMain lets the test be the client that another process of it runs.
func TestMain(m *testing.M) {
	if os.Getenv("SEALBOOT_TUF_CLIENT") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process runs the client as the suite does, and returns its exit code. The time
// is what a date(1) of our own says.
func (r *runner) process(seconds int64, args ...string) int {
	r.t.Helper()
	bin := r.t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = +%%s ] && echo %d\n", seconds)
	if err := os.WriteFile(filepath.Join(bin, "date"), []byte(script), 0o755); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), os.Args[0], append([]string{"--metadata-dir", r.metadataDir}, args...)...)
	cmd.Env = append(os.Environ(), "SEALBOOT_TUF_CLIENT=1", "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok && err != nil {
		r.t.Fatal(err)
	} else if ok && exit.ExitCode() != 1 {
		r.t.Errorf("exit code %d", exit.ExitCode())
	}
	if (len(out) == 0) != (err == nil) {
		r.t.Errorf("%v; it printed %q", err, out)
	}
	return cmd.ProcessState.ExitCode()
}

func Test_process(t *testing.T) {
	c := newRunner(t)
	root := filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, c.root, 0o644); err != nil {
		t.Fatal(err)
	}
	refresh := []string{"--metadata-url", c.repo.URL + "/metadata/", "refresh"}
	now := c.now.Unix()
	c.want(c.process(now, refresh...), 1) // before init
	c.want(c.process(now, "init", root), 0)
	c.wantRequests()
	c.want(c.process(now, refresh...), 0)
	c.want(c.process(c.repo.Expiry.Unix()-1, refresh...), 0)
	c.want(c.process(c.repo.Expiry.Unix(), refresh...), 1)
	for _, args := range [][]string{{}, {"nonsense"}, {"--nonsense"}, {"refresh"}, {"init"}, {"download"}} {
		c.want(c.process(now, args...), 1)
	}
	// A server that fails closes the connection without an answer: nothing is asked twice.
	c.repo.Forget()
	c.repo.Intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/timestamp.json") {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	c.want(c.process(now, refresh...), 1)
	c.wantRequests(tuftest.Request{Role: "root", Version: 2}, tuftest.Request{Role: "timestamp"})
}
