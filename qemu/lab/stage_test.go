package lab

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/measure/fwlog/armor"
)

func TestSilence(t *testing.T) {
	s := newStages(new(bytes.Buffer))
	began := time.Now()
	err := s.run("a long stage", func() error {
		if got := s.silence(began.Add(quiet / 2)); got != "" {
			t.Errorf("after a moment: %q", got)
		}
		if got := s.silence(began.Add(2 * quiet)); got != "20 s so far" {
			t.Errorf("of a silent program: %q", got)
		}
		s.line("  CC      drivers/tty/\x1b[1mserial.o\r")
		s.line("")
		if got := s.silence(began.Add(2 * quiet)); got != "20 s so far: CC drivers/tty/serial.o" {
			t.Errorf("of one that says what it does: %q", got)
		}
		s.line(strings.Repeat("x", 200))
		if got := s.silence(began.Add(2 * quiet)); len(got) > 64 {
			t.Errorf("%d columns: %q", len(got), got)
		}
		return errors.New("broken")
	})
	var stage *StageError
	if !errors.As(err, &stage) || stage.Stage != "a long stage" {
		t.Errorf("the error does not name the stage: %v", err)
	}
}

func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("claimed twice: %v", err)
	}
	if _, err := os.Stat(old); err != nil {
		t.Errorf("who was refused has removed a file: %v", err)
	}
	first.Close()
	second, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a former run's file is still there: %v", err)
	}
	if _, err := claim(filepath.Dir(dir)); err == nil || !strings.Contains(err.Error(), "not made by a lab") {
		t.Errorf("claimed somebody's directory: %v", err)
	}
}

func TestCost(t *testing.T) {
	b := &Boot{Took: 40 * time.Second, Events: []ConsoleEvent{
		{Stage: "fetch", Event: "progress", What: "fetched", Done: 1 << 20},
		{Stage: "fetch", Event: "done", Took: 1},
		{Stage: "fetch", Event: "progress", What: "fetched", Done: 1 << 10},
		{Stage: "fetch", Event: "progress", What: "fetched", Done: 3 << 20},
		{Stage: "fetch", Event: "progress", What: "unpacked", Done: 9 << 20},
		{Stage: "fetch", Event: "done", Took: 2.5},
		{Stage: "load", Event: "info", Text: "kernel loaded in 4.9 s, peak memory 440 MiB"},
		{Stage: "load", Event: "done", Took: 5},
	}}
	want := []cost{{"fetch", "3.5 s"}, {"load", "5.0 s"}, {"fetched", "4.0 MiB"}, {"peak memory", "440.0 MiB"}, {"machine on", "40.0 s"}}
	if d := cmp.Diff(want, b.cost(), cmp.AllowUnexported(cost{})); d != "" {
		t.Error(d)
	}
}

func TestReferenceFailure(t *testing.T) {
	var log strings.Builder
	if err := armor.Print(&log, []byte("log")); err != nil {
		t.Fatal(err)
	}
	late := errors.New("too late")
	for name, tt := range map[string]struct {
		waited  error
		console string
		want    error
		says    string
	}{
		"a log":      {nil, "Linux\r\n" + log.String() + "reboot: Power down\r\n", nil, ""},
		"too late":   {late, log.String(), late, "too late"},
		"cut":        {nil, log.String()[:40], armor.ErrDamaged, "damaged"},
		"nothing":    {nil, "BdsDxe: starting\r\n", armor.ErrNone, "no event log"},
		"no TPM":     {nil, "\x1b[2Jrecorder: read it: no such file\r\n", armor.ErrNone, `it said "recorder: read it: no such file"`},
		"it crashed": {nil, "[ 1.0] Kernel panic - not syncing: out of memory\r\n", armor.ErrNone, "not syncing: out of memory"},
	} {
		err := referenceFailure(tt.waited, tt.console)
		if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want %v that contains %q", name, err, tt.want, tt.says)
		}
	}
}
