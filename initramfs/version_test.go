package initramfs

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSourceVersion compares with what the go command says of the same repository.
func TestSourceVersion(t *testing.T) {
	need(t, "git")
	dir := t.TempDir()
	run := func(name string, arg ...string) {
		t.Helper()
		cmd := exec.Command(name, arg...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "TZ=Pacific/Auckland",
			"GIT_AUTHOR_DATE=2026-11-23T23:30:00+13:00", "GIT_COMMITTER_DATE=2026-11-23T23:30:00+13:00",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GOFLAGS=", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, arg, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/m\n\ngo 1.26\n")
	write("main.go", "package main\n\nfunc main() {}\n")
	if got := SourceVersion(t.Context(), dir); got != "devel" {
		t.Errorf("without a repository: %s", got)
	}
	run("git", "init", "-q")
	if got := SourceVersion(t.Context(), dir); got != "devel" {
		t.Errorf("without a commit: %s", got)
	}
	binary := filepath.Join(t.TempDir(), "m")
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"a commit", func() { run("git", "add", "."); run("git", "commit", "-q", "-m", "one") }},
		{"local changes", func() { write("extra", "") }},
		{"a release with local changes", func() { run("git", "tag", "v1.2.0") }},
		{"a release", func() { run("git", "clean", "-fq") }},
	} {
		step.do()
		run("go", "build", "-buildvcs=true", "-o", binary, ".")
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		if got := SourceVersion(t.Context(), dir); got != info.Main.Version {
			t.Errorf("%s: %s, and the go command says %s", step.what, got, info.Main.Version)
		}
	}
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := SourceVersion(t.Context(), below); got != "devel" {
		t.Errorf("in somebody else's repository: %s", got)
	}
	t.Setenv("PATH", "")
	if got := SourceVersion(t.Context(), dir); got != "devel" {
		t.Errorf("without git: %s", got)
	}
}
