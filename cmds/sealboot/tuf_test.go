package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sealbootTUF runs "sealboot tuf" as a script and returns what it prints.
func sealbootTUF(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if !slices.Contains([]string{"trust", "diff", "discard", "verify", "export", "key-id"}, args[0]) {
		args = append(args, "--yes")
	}
	return runTUF(t, strings.NewReader("y\n"), args...)
}

// runTUF runs "sealboot tuf" with this input.
func runTUF(t *testing.T, in io.Reader, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newTUFCmd()
	cmd.SetOut(&out)
	cmd.SetErr(t.Output())
	cmd.SetIn(in)
	cmd.SetArgs(args)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestTUFLife publishes images, rotates a key between two people, and takes
// the repository away on a stick.
func TestTUFLife(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("vmlinuz"), []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	keys := func(names ...string) (args []string) {
		for _, n := range names {
			args = append(args, "--key", in("keys/"+n+".pem"))
		}
		return args
	}
	online := keys("targets", "snapshot", "timestamp")
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, step := range []struct {
		args []string
		out  string // part of what is printed
	}{
		{[]string{"init", in("repo"), "--generate", in("keys"), "--lifetime", "timestamp=3d"}, "published"},
		{append([]string{"add", in("repo"), "os/1/vmlinuz", in("vmlinuz")}, online...), "published"},
		{append([]string{"add", in("repo"), "os", "--kind", "linux", "--image-version", "1", "--kernel", "os/1/vmlinuz", "--cmdline", "ro"}, online...), "published"},
		{append([]string{"add", in("repo"), "edge", "--kind", "oci", "--image-version", "7", "--oci", "r.example/os@" + digest}, online...), "published"},
		{[]string{"init", in("other"), "--generate", in("others")}, "published"}, // for its keys
		{append([]string{"add-key", in("repo"), "root", in("others/root.pem"), "--threshold", "2"}, keys("root")...), "needs 1 more"},
		{append([]string{"refresh", in("repo")}, keys("timestamp")...), "published"},
		{[]string{"key-id", in("others/root.pem")}, "  " + in("others/root.pem")},
		{[]string{"diff", in("repo")}, "~ roles.root.threshold: 1 -> 2"},
		{[]string{"sign", in("repo"), "--key", in("others/root.pem")}, "root 2\npublished"},
		{[]string{"diff", in("repo")}, "there is no draft"},
		{[]string{"trust", in("repo")}, "has seen \"root\" 2"},
		{[]string{"sign", in("repo")}, "nothing to do"},
		{append([]string{"rotate", in("repo"), "timestamp", "--old", in("keys/timestamp.pem"), "--new", in("others/timestamp.pem"),
			"--key", in("others/root.pem"), "--key", in("others/timestamp.pem")}, keys("root")...), "published"},
		{[]string{"delegate", in("repo"), "team", "--path", "team/*", "--trust", in("others/targets.pem"), "--key", in("others/targets.pem"),
			"--key", in("keys/targets.pem"), "--key", in("keys/snapshot.pem"), "--key", in("others/timestamp.pem")}, "team 1"},
		{[]string{"remove", in("repo"), "edge", "--key", in("keys/targets.pem")}, "kept as a draft"},
		{[]string{"discard", in("repo")}, ""},
		{[]string{"verify", in("repo")}, "targets    5 "},
		{append([]string{"bundle", in("repo"), in("stick.tar"), "--target", "os"}, keys("targets")...), "sealed"},
		{[]string{"bundle", in("repo"), in("open.tar")}, "needs 1 more"},
		{append([]string{"seal", in("repo"), in("open.tar")}, keys("targets")...), "sealed"},
		{[]string{"refresh", in("repo"), "--lifetime", "100d", "--key", in("others/timestamp.pem")}, "published"},
		{[]string{"export", in("repo"), in("www")}, ""},
		{[]string{"verify", in("www"), "--root", in("repo/metadata/1.root.json")}, "team"},
	} {
		out, err := sealbootTUF(t, step.args...)
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(step.args, " "), err)
		}
		if !strings.Contains(out, step.out) {
			t.Fatalf("%s printed\n%s\nwithout %q", strings.Join(step.args, " "), out, step.out)
		}
	}
	for _, args := range [][]string{
		{"init", in("repo"), "--generate", in("more")},
		{"init", in("empty")},
		{"add", in("repo"), "x"},
		{"add", in("repo"), "x", "--kind", "oci", "--image-version", "1", "--oci", "r.example/os:latest"},
		{"add", in("repo"), "x", "--kind", "oci", "--image-version", "1", "--arch", "x86_64", "--oci", "r.example/os@" + digest},
		{"add", in("repo"), "x", in("vmlinuz"), "--kind", "uki"},
		{"add", in("repo"), "x", in("vmlinuz"), "--kind", "uki", "--image-version", "70368744177665"}, // 2^46+1
		{"add", in("repo"), "x", in("vmlinuz"), "--image-version", "1"},
		{"add", in("repo"), "x", in("vmlinuz"), "--kind", "uki", "--image-version", "1", "--kernel", "os/1/vmlinuz"},
		{"add", in("repo"), "x", "--kind", "linux", "--image-version", "1", "--kernel", "nothere"},
		{"add", in("repo"), "other/x", in("vmlinuz"), "--role", "team"},
		{"add-key", in("repo"), "targets", in("others/snapshot.pem"), "--threshold", "3"},
		{"key-id", in("vmlinuz")},
		{"rotate", in("repo"), "targets"},
		{"rotate", in("repo"), "targets", "--old", in("keys/targets.pem")}, // its only one
		{"delegate", in("repo"), "other", "--path", "*"},
		{"refresh", in("repo"), "--key", in("keys/timestamp.pem")}, // it was rotated away
		{"refresh", in("repo"), "--lifetime", "1m", "--key", in("others/timestamp.pem")},
		{"bundle", in("repo"), in("no.tar"), "--lifetime", "soon"},
		{"bundle", in("repo"), in("no.tar"), "--key", in("keys/root.pem")},
		{"seal", in("repo"), in("vmlinuz"), "--key", in("keys/targets.pem")},
		{"delegate", in("repo"), "a/b", "--path", "*", "--trust", in("others/targets.pem"), "--key", in("keys/targets.pem")},
		{"trust", in("repo"), "--root", in("repo/metadata/1.root.json")}, // it is
		{"verify", in("repo"), "--state", in("repo/state")},
		{"verify", in("repo"), "--root", in("other/metadata/1.root.json")},
		{"consistent", in("repo"), "--key", in("keys/root.pem")}, // it is
		{"verify", in("keys")},
	} {
		if out, err := sealbootTUF(t, args...); err == nil {
			t.Errorf("%s succeeded:\n%s", strings.Join(args, " "), out)
		} else {
			t.Logf("%s: %v", args[0], err)
		}
	}
	for _, name := range []string{"more", "empty"} { // by a failed init
		if _, err := os.Stat(in(name)); err == nil {
			t.Errorf("there is a directory %s", name)
		}
	}
}
