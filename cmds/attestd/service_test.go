package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/wire"
)

const unit = "attestd.service"

// need skips a test where tools are missing, unless all have to be there.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to become a user without privileges")
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build makes attestd in a directory that other users can look into.
func build(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "attestd-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "go", "build", "-o", filepath.Join(dir, "attestd"), ".")
	return dir
}

// TestService has systemd check the unit, and what it leaves open.
func TestService(t *testing.T) {
	need(t, "systemd-analyze")
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	dir := build(t)
	installed := filepath.Join(dir, unit)
	text = bytes.ReplaceAll(text, []byte("/usr/bin/attestd"), []byte(filepath.Join(dir, "attestd")))
	if err := os.WriteFile(installed, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "systemd-analyze", "verify", "--man=no", installed); strings.Contains(out, unit) {
		t.Error(out)
	}
	// 0 is nothing, 100 a service without any restriction. IP, local sockets and the machine's own root are needed.
	run(t, "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", installed)
	for _, setting := range []string{"LimitCORE=0", "LimitMEMLOCK=infinity", "MemorySwapMax=0", "User=attestd", "CapabilityBoundingSet=", "UMask=0077"} {
		if !regexp.MustCompile("(?m)^" + setting + "$").Match(text) {
			t.Errorf("the unit has no %s", setting)
		}
	}
}

// TestRunAsService runs attestd as the unit does, as far as that goes without systemd: as a user without privileges that
// cannot get any, with its limits and its command line. It looks at what the kernel makes of it, and at every system
// call, which the unit's filter has to allow.
func TestRunAsService(t *testing.T) {
	need(t, "systemd-analyze", "strace", "setpriv", "prlimit")
	dir := build(t)
	site := makeSite(t, dir)
	calls := filepath.Join(site, "calls")
	d := start(t, command(t, site, true, []string{"strace", "-f", "-qq", "-o", calls}, "--require-locked-memory"))
	pid := child(t, d.cmd.Process.Pid)
	status := read(t, pid, "status")
	if locked := regexp.MustCompile(`VmLck:\s+(\d+) kB`).FindStringSubmatch(status); locked == nil || locked[1] == "0" {
		t.Errorf("no memory is locked:\n%s", status)
	}
	if limits := read(t, pid, "limits"); !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("it may write cores:\n%s", limits)
	}
	// The kernel gives /proc of a process whose memory is hidden to root.
	fi, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("its memory is open to its user: %v %v", fi, err)
	}
	d.answers(t)
	d.asks(t)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-d.ended; err != nil {
		t.Errorf("at its end: %v\n%s", err, d.log(t))
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	allowed, seen := allowedCalls(t), 0
	for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`).FindAllSubmatch(text, -1) {
		seen++
		if name := string(m[1]); !allowed[name] {
			allowed[name] = true // said once
			t.Errorf("the unit's filter refuses %s", name)
		}
	}
	if seen < 100 {
		t.Errorf("%d system calls were seen", seen)
	}
}

// TestUnlockedMemory: with the usual limit attestd warns, and ends where it was told to.
func TestUnlockedMemory(t *testing.T) {
	need(t, "setpriv", "prlimit")
	site := makeSite(t, build(t))
	d := start(t, command(t, site, false, nil))
	d.answers(t)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-d.ended; err != nil || !strings.Contains(d.log(t), "keys are not protected from swap") {
		t.Errorf("ended with %v and said\n%s", err, d.log(t))
	}
	var exit *exec.ExitError
	out, err := command(t, site, false, nil, "--require-locked-memory").CombinedOutput()
	if !errors.As(err, &exit) || !bytes.Contains(out, []byte("LimitMEMLOCK=infinity")) {
		t.Errorf("ended with %v and said\n%s", err, out)
	}
}

// makeSite makes a site in dir that belongs to the user of the service.
func makeSite(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "site")
	set := site.Settings{Name: "lab", URL: "https://127.0.0.1:1", Endorsement: site.EndorsedByHash}
	if err := site.Init(path, set, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(path, func(name string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chown(name, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// user is Debian's user without files.
const user = 65534

// command is attestd next to its site, which another program runs. It may lock its memory, or as much as users usually
// may.
func command(t *testing.T, site string, lock bool, through []string, flags ...string) *exec.Cmd {
	t.Helper()
	args := []string{"--memlock=65536", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"}
	none := []string{"--inh-caps=-all", "--bounding-set=-all"}
	if lock && exec.CommandContext(t.Context(), "prlimit", "--memlock=unlimited", "true").Run() == nil {
		args[0] = "--memlock=unlimited"
	} else if lock { // in a container that keeps root from it
		none = []string{"--inh-caps=-all,+ipc_lock", "--ambient-caps=-all,+ipc_lock", "--bounding-set=-all,+ipc_lock"}
	}
	args = slices.Concat(args, none, through, []string{filepath.Join(filepath.Dir(site), "attestd"), "serve", "--dir", site,
		"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, flags)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "prlimit", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// daemon is a running attestd.
type daemon struct {
	cmd   *exec.Cmd
	admin string // URL of its status page
	ended chan error
	said  string // file
}

// start returns when attestd has said where its status page is.
func start(t *testing.T, cmd *exec.Cmd) *daemon {
	t.Helper()
	said, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{cmd: cmd, ended: make(chan error, 1), said: said.Name()}
	go func() { d.ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // and what it runs
	at := regexp.MustCompile(`msg="status page" url=(\S+)`)
	for {
		if m := at.FindStringSubmatch(d.log(t)); m != nil {
			d.admin = m[1]
			return d
		}
		select {
		case err := <-d.ended:
			t.Fatalf("ended with %v and said\n%s", err, d.log(t))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *daemon) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.said)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (d *daemon) answers(t *testing.T) {
	t.Helper()
	resp, err := http.Get(d.admin + "healthz")
	if err != nil {
		t.Fatalf("%v\n%s", err, d.log(t))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %s\n%s", resp.Status, d.log(t))
	}
}

// asks sends what is no message to where devices ask.
func (d *daemon) asks(t *testing.T) {
	t.Helper()
	at := regexp.MustCompile(`msg=serving .*listen=(\S+)`).FindStringSubmatch(d.log(t))
	if at == nil {
		t.Fatalf("it does not serve:\n%s", d.log(t))
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it is ours
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Post("https://"+at[1]+wire.PathHello, wire.ContentType, strings.NewReader("{}"))
	if err != nil {
		t.Fatalf("%v\n%s", err, d.log(t))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a hello that is none: %s", resp.Status)
	}
}

// child returns the process that strace runs.
func child(t *testing.T, pid int) int {
	t.Helper()
	fields := strings.Fields(read(t, pid, fmt.Sprintf("task/%d/children", pid)))
	if len(fields) != 1 {
		t.Fatalf("%d has the children %v", pid, fields)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func read(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// allowedCalls are those that the unit's filter lets pass. Lines that begin with ~ take calls from those before.
func allowedCalls(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, name := range expand(t, "@default") {
		allowed[name] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(.*)$`).FindAllSubmatch(text, -1) {
		for word := range strings.FieldsSeq(string(m[2])) {
			for _, name := range expand(t, word) {
				allowed[name] = len(m[1]) == 0
			}
		}
	}
	return allowed
}

// expand returns the system calls of a group, and of those in it.
func expand(t *testing.T, name string) []string {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	var out []string
	for line := range strings.Lines(run(t, "systemd-analyze", "syscall-filter", name)) {
		if line = strings.TrimSpace(line); line != "" && line != name && !strings.HasPrefix(line, "#") {
			out = append(out, expand(t, line)...)
		}
	}
	return slices.Compact(out)
}
