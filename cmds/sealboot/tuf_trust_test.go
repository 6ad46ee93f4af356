package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

// tufSite is a repository with its keys, and an operator's configuration.
type tufSite struct {
	t   *testing.T
	dir string
}

func newTUFSite(t *testing.T) *tufSite {
	t.Helper()
	s := &tufSite{t: t, dir: t.TempDir()}
	t.Setenv("XDG_CONFIG_HOME", s.in("config"))
	if err := os.WriteFile(s.in("file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("", "init", s.in("repo"), "--generate", s.in("keys"))
	return s
}

func (s *tufSite) in(name string) string { return filepath.Join(s.dir, name) }

func (s *tufSite) keys(names ...string) (args []string) {
	for _, n := range names {
		args = append(args, "--key", s.in("keys/"+n+".pem"))
	}
	return args
}

// run expects an error with want in it, or none.
func (s *tufSite) run(want string, args ...string) string {
	s.t.Helper()
	out, err := sealbootTUF(s.t, args...)
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		s.t.Fatalf("%s: %v, want %q\n%s", strings.Join(args, " "), err, want, out)
	}
	return out
}

// TestSigningAsks: every command that signs shows what, asks on a terminal, and
// without one signs nothing unless it is told --yes.
func TestSigningAsks(t *testing.T) {
	s := newTUFSite(t)
	all := s.keys("root", "targets", "snapshot", "timestamp")
	s.run("", "bundle", s.in("repo"), s.in("open.tar"))
	for _, args := range [][]string{
		{"seal", s.in("repo"), s.in("open.tar")},
		{"add", s.in("repo"), "os", s.in("file")},
		{"refresh", s.in("repo")},
		{"delegate", s.in("repo"), "team", "--path", "team/*", "--trust", s.in("keys/targets.pem")},
		{"add-key", s.in("repo"), "root", s.in("keys/targets.pem")},
		{"rotate", s.in("repo"), "targets", "--new", s.in("keys/root.pem")},
		{"bundle", s.in("repo"), s.in("stick.tar")},
		{"init", s.in("second")},
	} {
		if args[0] == "init" {
			for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
				args = append(args, "--trust", role+"="+s.in("keys/"+role+".pem"))
			}
		}
		args = append(args, all...)
		out, err := runTUF(t, strings.NewReader("y\n"), args...)
		if !errors.Is(err, errUnconfirmed) || args[0] != "init" && !strings.Contains(out, "to be signed by") {
			t.Errorf("%s without a terminal: %v\n%s", args[0], err, out)
		}
		out, err = runTUF(t, s.terminal("\n"), args...)
		if !errors.Is(err, errUnconfirmed) || !strings.Contains(err.Error(), "the answer was no") || !strings.Contains(out, "to be signed by") {
			t.Errorf("%s and no: %v\n%s", args[0], err, out)
		}
		if out, err := runTUF(t, s.terminal("Yes\n"), args...); err != nil {
			t.Errorf("%s and yes: %v\n%s", args[0], err, out)
		}
	}
}

// TestTUFFlags: no command takes a repository without the operator's side of it, or
// keys without a question.
func TestTUFFlags(t *testing.T) {
	for _, cmd := range newTUFCmd().Commands() {
		has := func(name string) bool { return cmd.Flags().Lookup(name) != nil }
		if strings.Contains(cmd.Use, "REPOSITORY") != has("state") {
			t.Errorf("%s: --state is %t", cmd.Use, has("state"))
		}
		if has("key") != has("yes") {
			t.Errorf("%s: --key is %t and --yes %t", cmd.Use, has("key"), has("yes"))
		}
	}
}

// terminal is a terminal at which somebody has typed text.
func (s *tufSite) terminal(text string) io.Reader {
	s.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { slave.Close() })
	if _, err := master.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
	return slave
}

// TestSecondMachine: another machine begins with a root or its digest, and signs a
// draft of the first without a question only if it is named.
func TestSecondMachine(t *testing.T) {
	s := newTUFSite(t)
	first := s.run("", "trust", s.in("repo"))
	digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(first)
	s.run("", append([]string{"rotate", s.in("repo"), "root", "--new", s.in("keys/targets.pem")}, s.keys("root", "targets")...)...)
	s.run("", append([]string{"add", s.in("repo"), "os", s.in("file")}, s.keys("targets")...)...)

	t.Setenv("XDG_CONFIG_HOME", s.in("config2"))
	s.run(tufrepo.ErrUntrusted.Error(), append([]string{"refresh", s.in("repo")}, s.keys("timestamp")...)...)
	s.run(tufrepo.ErrUntrusted.Error(), "trust", s.in("repo"))
	s.run("is not of the form", "trust", s.in("repo"), "--root-digest", "sha256:00")
	s.run("has the digest", "trust", s.in("repo"), "--root-digest", "sha256:"+strings.Repeat("00", 32))
	if out := s.run("", "trust", s.in("repo"), "--root-digest", digest); !strings.Contains(out, "trusts root 1, "+digest) || !strings.Contains(out, `has seen "root" 2`) {
		t.Errorf("trust printed\n%s", out)
	}
	shown := s.run("", "diff", s.in("repo"))
	draft := regexp.MustCompile(`draft (sha256:[0-9a-f]{64}) \(from somewhere else\)\n`).FindStringSubmatch(shown)
	if draft == nil || !strings.Contains(shown, `+ targets.os: {"hashes":`) {
		t.Fatalf("diff printed\n%s", shown)
	}
	sign := append([]string{"sign", s.in("repo")}, s.keys("snapshot", "timestamp")...)
	s.run("--draft "+draft[1], sign...)
	s.run("the draft is not", append(sign, "--draft", digest)...)
	if out := s.run("", append(sign, "--draft", draft[1])...); !strings.Contains(out, "published") {
		t.Errorf("sign printed\n%s", out)
	}
	s.run("there is no draft", append(sign, "--draft", draft[1])...) // it is published
	s.run("", "verify", s.in("repo"))
}
