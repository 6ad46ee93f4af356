// Package depcheck pins what a command is made of, and what a package may reach.
// What goes into firmware is flashed, measured and trusted, so nothing gets in
// there by accident; what judges bytes must have no way to ask for more.
//
// Dependencies are followed to their end: a package that is kept out by name comes
// back by way of a helper, and then a list of direct imports still looks right.
package depcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sealboot/sealboot/"

// A Rule keeps a package out, and all below it, or, with a name such as "*test",
// all packages of this module whose last element ends so.
type Rule struct{ Package, Why string }

func (r Rule) covers(pkg string) bool {
	if end, ok := strings.CutPrefix(r.Package, "*"); ok {
		return strings.HasPrefix(pkg, module) && strings.HasSuffix(pkg, end) && !strings.HasSuffix(pkg, "/attest")
	}
	return pkg == r.Package || strings.HasPrefix(pkg, r.Package+"/")
}

// An Excuse lets one package import what is kept out.
type Excuse struct{ From, To, Why string }

// Check fails the test if the command at the import path pkg is made of a
// package outside of the standard library that no entry of allowed covers. An
// entry covers a package and all below it. Entries that cover nothing fail too.
func Check(t *testing.T, pkg string, allowed []string) {
	t.Helper()
	g := load(t, pkg)
	used := make(map[string]bool)
	for dep, p := range g {
		if p.Standard {
			continue
		}
		i := slices.IndexFunc(allowed, func(a string) bool { return Rule{Package: a}.covers(dep) })
		if i < 0 {
			t.Errorf("%s is made of %s, which is not allowed in firmware.\nIt gets in by:\n%s", pkg, dep, g.path(pkg, dep))
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

// Never fails the test if pkg is made of anything that rules keep out.
func Never(t *testing.T, pkg string, rules []Rule) {
	t.Helper()
	g := load(t, pkg)
	for dep := range g {
		for _, r := range rules {
			if r.covers(dep) {
				t.Errorf("%s is made of %s: %s.\nIt gets in by:\n%s", pkg, dep, r.Why, g.path(pkg, dep))
			}
		}
	}
}

// Pure fails the test if pkg, or a package that it is made of, imports what rules
// keep out or uses one of the calls (as in "time.Now"). Of the standard library
// itself nothing is asked: fmt and crypto/x509 could open files, and do not unless
// they are told to. The excuses that were needed are returned.
func Pure(t *testing.T, pkg string, rules []Rule, calls []string, excuses []Excuse) (needed []Excuse) {
	t.Helper()
	g := load(t, pkg)
	for dep, p := range g {
		if p.Standard {
			continue
		}
		for _, to := range p.Imports {
			i := slices.IndexFunc(rules, func(r Rule) bool { return r.covers(to) })
			if i < 0 {
				continue
			}
			e := slices.IndexFunc(excuses, func(e Excuse) bool { return e.From == dep && e.To == to })
			if e >= 0 {
				needed = append(needed, excuses[e])
				continue
			}
			t.Errorf("%s imports %s: %s.\nIt gets in by:\n%s", dep, to, rules[i].Why, g.path(pkg, dep))
		}
		if !strings.HasPrefix(dep, module) {
			continue
		}
		for _, file := range p.GoFiles {
			used, err := uses(filepath.Join(p.Dir, file), nil, calls)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range used {
				t.Errorf("%s, of which %s is made", u, pkg)
			}
		}
	}
	return needed
}

// uses lists the places in a Go file that name one of the calls.
func uses(file string, source any, calls []string) (found []string, err error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	name := make(map[string]string) // of a package in this file: its path
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		local := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			local = i.Name.Name
		}
		name[local] = path
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(calls, name[x.Name]+"."+s.Sel.Name) {
				found = append(found, fmt.Sprintf("%v uses %s.%s", set.Position(s.Pos()), name[x.Name], s.Sel.Name))
			}
		}
		return true
	})
	return found, nil
}

// A graph is a package and all that it is made of, by import path.
type graph map[string]*node

type node struct {
	ImportPath, Dir  string
	Standard         bool
	Imports, GoFiles []string
}

func load(t *testing.T, pkg string) graph {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Standard,Imports,GoFiles", pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	g := make(graph)
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		n := new(node)
		err := d.Decode(n)
		if errors.Is(err, io.EOF) {
			return g
		}
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		g[n.ImportPath] = n
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
func (g graph) path(from, to string) string {
	came := map[string]string{from: ""}
	for todo := []string{from}; len(todo) > 0; todo = todo[1:] {
		n := g[todo[0]]
		if n == nil {
			continue
		}
		for _, next := range n.Imports {
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
