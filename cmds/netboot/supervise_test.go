package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// TestMain plays the worker: runWorker starts this very binary.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == workerArg {
		playWorker()
	}
	os.Exit(m.Run())
}

// playWorker ends in the way that the test has asked for.
func playWorker() {
	how, _ := os.ReadFile(howFile)
	switch string(how) {
	case "kexec":
		os.Exit(exitCode(flow.Kexec))
	case "reboot":
		os.Exit(exitCode(flow.Reboot))
	case "poweroff":
		os.Exit(exitCode(flow.Poweroff))
	case "shell":
		os.Exit(exitCode(flow.Shell))
	case "panic":
		panic("worker")
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "segfault":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
	case "floods":
		for range 1 << 10 {
			fmt.Println(strings.Repeat("x", 1023))
			fmt.Fprintln(os.Stderr, strings.Repeat("y", 1023))
		}
		os.Exit(exitCode(flow.Kexec))
	case "hangs":
		time.Sleep(time.Hour)
	case "lingers":
		_, _ = os.Stdout.Close(), os.Stderr.Close()
		time.Sleep(time.Hour)
	case "exit 0":
		os.Exit(0)
	case "exit 1":
		os.Exit(1)
	}
	os.Exit(99)
}

// howFile is in the working directory: the worker's environment is emptied.
const howFile = "how"

func TestRunWorker(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		how     string
		outcome flow.Outcome
		crashed bool
	}{
		{"kexec", flow.Kexec, false},
		{"reboot", flow.Reboot, false},
		{"poweroff", flow.Poweroff, false},
		{"shell", flow.Shell, false},
		{"panic", flow.Reboot, true},
		{"killed", flow.Reboot, true},
		{"segfault", flow.Reboot, true},
		{"exit 0", flow.Reboot, true},
		{"exit 1", flow.Reboot, true},
		{"something else", flow.Reboot, true},
	} {
		t.Run(c.how, func(t *testing.T) {
			if err := os.WriteFile(howFile, []byte(c.how), 0o600); err != nil {
				t.Fatal(err)
			}
			outcome, err := runWorker(io.Discard, workerPatience)
			if outcome != c.outcome || errors.Is(err, errWorker) != c.crashed {
				t.Errorf("runWorker = %v, %v; want %v, crashed %v", outcome, err, c.outcome, c.crashed)
			}
		})
	}
}

// TestBlockedConsole has a worker say more than pipes and buffers hold, on a
// console that takes nothing.
func TestBlockedConsole(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(howFile, []byte("floods"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, blocked := io.Pipe()
	outcome, err := runWorker(console.NewRelay(blocked), workerPatience)
	if outcome != flow.Kexec || err != nil {
		t.Errorf("runWorker = %v, %v; want kexec", outcome, err)
	}
}

// TestPatience has workers that never end.
func TestPatience(t *testing.T) {
	t.Chdir(t.TempDir())
	for how, p := range map[string]patience{
		"hangs":   {silence: 100 * time.Millisecond, leaving: time.Hour},
		"lingers": {silence: time.Hour, leaving: 100 * time.Millisecond},
	} {
		if err := os.WriteFile(howFile, []byte(how), 0o600); err != nil {
			t.Fatal(err)
		}
		outcome, err := runWorker(io.Discard, p)
		if outcome != flow.Reboot || !errors.Is(err, errSilent) {
			t.Errorf("%s: runWorker = %v, %v; want that it was killed", how, outcome, err)
		}
	}
	// One that hangs in the kernel does not even die.
	kills := 0
	p := patience{silence: time.Millisecond, leaving: time.Millisecond}
	if err := p.await(make(chan struct{}), make(chan struct{}), func() { kills++ }); !errors.Is(err, errStuck) || kills != 1 {
		t.Errorf("await = %v, killed %d times; want %v after one", err, kills, errStuck)
	}
}

// TestExitCodes shows that no exit code but the four means anything but reset.
func TestExitCodes(t *testing.T) {
	meant := 0
	for code := -1; code < 256; code++ {
		outcome, err := outcomeOf(code)
		if err != nil {
			if outcome != flow.Reboot {
				t.Errorf("exit code %d: %v", code, outcome)
			}
			continue
		}
		meant++
		if exitCode(outcome) != code {
			t.Errorf("exit code %d is taken for %v, whose is %d", code, outcome, exitCode(outcome))
		}
	}
	if meant != 4 {
		t.Errorf("%d exit codes mean something; want 4", meant)
	}
}

func TestHeapLimit(t *testing.T) {
	if l := heapLimit(); l < minHeap || l > maxHeap {
		t.Errorf("heapLimit = %d", l)
	}
}

// TestWatchdogLeftOn hands over to an operating system a "watchdog" that knows no
// time, and is a file: what falls short is said, and it is not switched off.
func TestWatchdogLeftOn(t *testing.T) {
	for _, tt := range []struct {
		within time.Duration
		want   string // what is written last
		says   string
	}{
		{0, "V", "cannot be switched off"},
		{90 * time.Second, "\x00", "gives the operating system 0s, not the 1m30s"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "watchdog"))
		if err != nil {
			t.Fatal(err)
		}
		quit := make(chan struct{})
		close(quit)
		w := &watchdog{file: f, stop: func() {}, quit: quit}
		var said strings.Builder
		w.handOver(func(format string, args ...any) { fmt.Fprintf(&said, format, args...) }, tt.within)
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(got), tt.want) || !strings.Contains(said.String(), tt.says) {
			t.Errorf("%v: wrote %q and said %q; want %q at the end, and %q", tt.within, got, said.String(), tt.want, tt.says)
		}
		if open := f.Sync() == nil; open != (tt.within != 0) {
			t.Errorf("%v: still open: %v", tt.within, open)
		}
		f.Close()
	}
}

func TestStaysOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stop_on_reboot")
	if staysOn(path) {
		t.Error("without the parameter, it stays on")
	}
	for value, want := range map[string]bool{"0\n": true, "-1\n": false, "1\n": false, "": false} {
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := staysOn(path); got != want {
			t.Errorf("%q: stays on: %v, want %v", value, got, want)
		}
	}
}
