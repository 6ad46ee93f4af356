// Package depcheck pins what a command is made of. What goes into firmware is
// flashed, measured and trusted, so nothing gets in there by accident.
package depcheck

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Check fails the test if the command at the import path pkg is made of a
// package outside of the standard library that no entry of allowed covers. An
// entry covers a package and all below it. Entries that cover nothing fail too.
func Check(t *testing.T, pkg string, allowed []string) {
	t.Helper()
	deps, err := list("-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg)
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, dep := range deps {
		i := slices.IndexFunc(allowed, func(a string) bool { return dep == a || strings.HasPrefix(dep, a+"/") })
		if i < 0 {
			t.Errorf("%s is made of %s, which is not allowed in firmware.\nIt gets in by:\n%s", pkg, dep, path(pkg, dep))
			continue
		}
		used[allowed[i]] = true
	}
	for _, a := range allowed {
		if !used[a] {
			t.Errorf("%s is allowed, but nothing uses it: take it off the list", a)
		}
	}
}

func list(args ...string) ([]string, error) {
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
	}
	return strings.Fields(string(out)), nil
}

// path is the shortest chain of imports from one package to another.
func path(from, to string) string {
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, from).Output()
	if err != nil {
		return err.Error()
	}
	imports := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		imports[f[0]] = f[1:]
	}
	came := map[string]string{from: ""}
	for todo := []string{from}; len(todo) > 0; todo = todo[1:] {
		for _, next := range imports[todo[0]] {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = todo[0]
			todo = append(todo, next)
		}
	}
	var chain []string
	for at := to; at != ""; at = came[at] {
		chain = append(chain, "  "+at)
	}
	slices.Reverse(chain)
	return strings.Join(chain, "\n")
}
