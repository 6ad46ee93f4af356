package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	packages := []string{"m/a", "m/vm", "m/vm/lab"}
	flags := []string{"-race"}
	for _, tt := range []struct {
		name   string
		splits []split
		want   [][]string
	}{
		{"no split", nil, [][]string{{"-race", "m/a", "m/vm", "m/vm/lab"}}},
		{"one", []split{{"vm/lab", "^TestA$"}}, [][]string{
			{"-race", "-run=^TestA$", "m/vm/lab"},
			{"-race", "-skip=^TestA$", "m/vm/lab"},
			{"-race", "m/a", "m/vm"},
		}},
		{"two of one package overlap", []split{{"vm/lab", "A|B"}, {"vm/lab", "B|C"}}, [][]string{
			{"-race", "-run=A|B", "m/vm/lab"},
			{"-race", "-run=B|C", "-skip=A|B", "m/vm/lab"},
			{"-race", "-skip=(A|B)|(B|C)", "m/vm/lab"},
			{"-race", "m/a", "m/vm"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			jobs, err := plan(tt.splits, flags, packages)
			if err != nil {
				t.Fatal(err)
			}
			var got [][]string
			for _, j := range jobs {
				got = append(got, j.args)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("jobs (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := plan([]split{{"elsewhere", "A"}}, nil, packages); err == nil {
		t.Error("a split of a package that is not tested was accepted: a renamed one would go unnoticed")
	}
}

func TestSplitRefused(t *testing.T) {
	for _, text := range []string{"", "lab", "=Test", "lab=", "lab=(", "lab=TestA/b"} {
		if _, err := parseSplit(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// module writes a module with a package of three tests, and one that has none.
func module(t *testing.T, failing string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.26\n",
		"lab/lab_test.go": `package lab
import ("fmt"; "testing")
func TestOne(t *testing.T) { fmt.Println("ran One") }
func TestTwo(t *testing.T) { t.Log("ran Two"); ` + failing + ` }
func TestThree(t *testing.T) { fmt.Println("ran Three") }
`,
		"none/none.go": "package none\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "-mod=mod")
}

func TestRun(t *testing.T) {
	module(t, "")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-split", "lab=One", "-count=1", "./..."}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		`(?m)^ok +\tm/lab\t\S+s\n    \(this part: One\)$`,
		`(?m)^ok +\tm/lab\t\S+s\n    \(this part: the rest\)$`,
		`(?m)^\?   \tm/none\t\[no test files\]$`,
		`(?s)the slowest tests:.* m/lab TestOne\n`,
		`(?s)the slowest tests:.* m/lab TestTwo\n`,
		`(?s)the slowest tests:.* m/lab TestThree\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "ran ") {
		t.Errorf("what a test printed that passed is shown:\n%s", out.String())
	}
	if n := strings.Count(out.String(), "m/lab Test"); n != 3 {
		t.Errorf("%d tests ran, want 3:\n%s", n, out.String())
	}
}

func TestRunFails(t *testing.T) {
	for name, failing := range map[string]string{
		"error": `t.Error("it broke")`,
		"panic": `panic("it broke")`,
		"build": `it broke`,
		"exit":  `println("it broke"); println(func() int { select {} }())`,
	} {
		t.Run(name, func(t *testing.T) {
			module(t, failing)
			var out bytes.Buffer
			err := run(t.Context(), []string{"-split", "lab=One", "-timeout=2s", "./..."}, &out)
			if !errors.Is(err, errFailed) {
				t.Errorf("error %v, want errFailed", err)
			}
			if name != "build" && (!strings.Contains(out.String(), "it broke") || !strings.Contains(out.String(), "FAIL\tm/lab")) {
				t.Errorf("the output does not say what failed:\n%s", out.String())
			}
			if name == "build" && !strings.Contains(out.String(), "lab_test.go:4:") {
				t.Errorf("the output does not say what did not build:\n%s", out.String())
			}
		})
	}
}
