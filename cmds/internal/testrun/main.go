// Command testrun runs "go test" for "make test": parts of one package at the same
// time, and at the end the tests that took longest.
//
//	testrun [-split PACKAGE=REGEXP]... [go test's flags] PACKAGE...
//
// go test runs packages side by side, but the tests of one package one after the
// other. A package of virtual machines, each of which keeps a processor busy and no
// more, so leaves the others idle. Each -split makes a part of the tests of PACKAGE
// whose names match REGEXP, and what no part matches is a part, too: no test is left
// out because somebody forgot it. Parts and the other packages share the processors.
//
// The output is that of go test: a line for each package or part, and everything that
// a failed test printed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// slowest is how many tests the end names.
const slowest = 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(1)
	}
}

// errFailed means that the output has said what failed.
var errFailed = errors.New("tests failed")

func run(ctx context.Context, args []string, out io.Writer) error {
	splits, a, err := parse(args)
	if err != nil {
		return err
	}
	packages, err := list(ctx, a)
	if err != nil {
		return err
	}
	jobs, err := plan(splits, a.flags, packages)
	if err != nil {
		return err
	}
	r := &report{out: out}
	if err := r.runAll(ctx, jobs); err != nil {
		return err
	}
	r.printSlowest(slowest)
	return nil
}

// runAll runs jobs, as many at a time as there are processors. All of them run,
// also when one failed.
func (r *report) runAll(ctx context.Context, jobs []job) error {
	workers := min(runtime.NumCPU(), len(jobs))
	queue := make(chan job)
	errs := make(chan error, len(jobs))
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for j := range queue {
				errs <- r.goTest(ctx, j, max(1, runtime.NumCPU()/workers))
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	group.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

// goTest runs one go test, whose packages share so many processors.
func (r *report) goTest(ctx context.Context, j job, processors int) error {
	args := append([]string{"test", "-json", fmt.Sprintf("-p=%d", processors)}, j.args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test ends what it started
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	readErr := r.read(pipe, j.part)
	if err := errors.Join(readErr, cmd.Wait()); err != nil {
		return fmt.Errorf("%w: go %s: %w", errFailed, strings.Join(args, " "), err)
	}
	return nil
}

// list returns the import paths of the packages that the patterns name.
func list(ctx context.Context, a arguments) ([]string, error) {
	args := []string{"list"}
	if a.tags != "" {
		args = append(args, "-tags", a.tags)
	}
	out, err := exec.CommandContext(ctx, "go", append(args, a.patterns...)...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// arguments are go test's: flags, of which tags also decides what is listed, and
// patterns of packages.
type arguments struct {
	flags, patterns []string
	tags            string
}

func parse(args []string) ([]split, arguments, error) {
	var splits []split
	var a arguments
	flags := flag.NewFlagSet("testrun", flag.ContinueOnError)
	flags.Func("split", "`PACKAGE=REGEXP`: tests that run as a part of their own", func(text string) error {
		s, err := parseSplit(text)
		splits = append(splits, s)
		return err
	})
	race := flags.Bool("race", false, "as go test's")
	timeout := flags.String("timeout", "", "as go test's")
	count := flags.String("count", "", "as go test's")
	flags.StringVar(&a.tags, "tags", "", "as go test's")
	if err := flags.Parse(args); err != nil {
		return nil, a, err
	}
	if *race {
		a.flags = append(a.flags, "-race")
	}
	for _, f := range []struct{ name, value string }{{"timeout", *timeout}, {"count", *count}, {"tags", a.tags}} {
		if f.value != "" {
			a.flags = append(a.flags, "-"+f.name+"="+f.value)
		}
	}
	if a.patterns = flags.Args(); len(a.patterns) == 0 {
		return nil, a, errors.New("no packages were named")
	}
	return splits, a, nil
}
