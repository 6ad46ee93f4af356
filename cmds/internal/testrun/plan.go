package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A split names tests of a package that run as a part of their own.
type split struct {
	pkg   string // the end of an import path, as in "qemu/lab"
	tests string // a regular expression for go test's -run
}

func parseSplit(text string) (split, error) {
	pkg, tests, ok := strings.Cut(text, "=")
	if !ok || pkg == "" || tests == "" {
		return split{}, fmt.Errorf("%q: want PACKAGE=REGEXP", text)
	}
	if strings.Contains(tests, "/") {
		return split{}, fmt.Errorf("%q: a slash would split subtests, and -skip would leave out other ones", text)
	}
	if _, err := regexp.Compile(tests); err != nil {
		return split{}, fmt.Errorf("%q: %w", text, err)
	}
	return split{pkg: strings.TrimPrefix(pkg, "./"), tests: tests}, nil
}

// A job is one go test.
type job struct {
	args []string // behind "go test -json -p N"
	part string   // what its package's line says of the part; empty if it has whole packages
}

// plan makes the jobs of a run: a job for each split in the order given, then one for
// each split package with what is left of it, then one with all other packages.
func plan(splits []split, flags, packages []string) ([]job, error) {
	var jobs []job
	skip := map[string][]string{} // of a package, what its parts have run
	var order []string
	for _, s := range splits {
		at := slices.IndexFunc(packages, func(p string) bool { return p == s.pkg || strings.HasSuffix(p, "/"+s.pkg) })
		if at < 0 {
			return nil, fmt.Errorf("-split %s=%s: no such package among those to test", s.pkg, s.tests)
		}
		pkg := packages[at]
		args := append(slices.Clone(flags), "-run="+s.tests)
		if before := skip[pkg]; len(before) > 0 {
			args = append(args, "-skip="+union(before)) // no test runs twice
		} else {
			order = append(order, pkg)
		}
		jobs = append(jobs, job{args: append(args, pkg), part: s.tests})
		skip[pkg] = append(skip[pkg], s.tests)
	}
	for _, pkg := range order {
		jobs = append(jobs, job{args: append(slices.Clone(flags), "-skip="+union(skip[pkg]), pkg), part: "the rest"})
	}
	rest := slices.DeleteFunc(slices.Clone(packages), func(p string) bool { return skip[p] != nil })
	if len(rest) > 0 {
		jobs = append(jobs, job{args: append(slices.Clone(flags), rest...)})
	}
	return jobs, nil
}

// union matches what one of the expressions does.
func union(tests []string) string {
	if len(tests) == 1 {
		return tests[0]
	}
	return "(" + strings.Join(tests, ")|(") + ")"
}
