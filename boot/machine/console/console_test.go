package console_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/measure/golden"
)

// play is a boot with everything that a console can show.
func play(c *console.Console, pass func(time.Duration)) {
	c.Title("harbour-7", "1.0")
	c.Stage(flow.StagePrepare)
	pass(120 * time.Millisecond)
	c.Info("host config from the EFI variable SealbootHost-5ea1b007-c0f1-4a5e-8b00-7ed05ea1b007")
	c.Stage(flow.StageNetwork)
	pass(1340 * time.Millisecond)
	c.Info("eth0 dhcp4 192.0.2.50/24")
	c.Stage(flow.StageHello)
	pass(3 * time.Second)
	c.Warn(errors.New("no signed time: dial tcp 192.0.2.1:8443: connection refused; see to it that attestd runs there"))
	c.Stage(flow.StageFetch)
	c.Info("oci registry.example/os/edge:stable")
	const total = 266 << 20
	for i := range int64(21) {
		c.Progress(console.Progress{Done: i * total / 20, Total: total, Rate: 12.4 * (1 << 20), Left: time.Duration(20-i) * time.Second})
		pass(time.Second)
	}
	for i := range int64(3) {
		c.Progress(console.Progress{Done: i * total / 2, Total: total, What: "unpacked"})
		pass(time.Second)
	}
	c.Info("verified registry.example/os/edge@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
	c.Fail(&flow.Failure{Stage: flow.StageFloor, Err: errors.New("version 7 is below the floor, 9; \x1b[2Jpublish a newer image\nor repair the floor")}, "the next source")
	c.Waiting(1500*time.Millisecond, 2)
	c.Stage(flow.StageMeasure)
	pass(300 * time.Millisecond)
	c.Info("container 2c26b46b68ff: 7 events")
	c.Stage(flow.StageKexec)
	pass(20 * time.Millisecond)
	c.End("kexec")
}

func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines bool
	}{{"bar", false}, {"lines", true}} {
		t.Run(c.name, func(t *testing.T) {
			var now time.Duration
			var out, j bytes.Buffer
			con := console.New(console.Options{Out: &out, JSON: &j, Lines: c.lines, Now: func() time.Duration { return now }})
			play(con, func(d time.Duration) { now += d })
			check(t, c.name+".txt", out.Bytes())
			check(t, c.name+".json", j.Bytes())
			for line := range strings.SplitSeq(out.String(), "\n") {
				for part := range strings.SplitSeq(line, "\r") {
					if len(part) > 80 {
						t.Errorf("more than 80 columns: %q", part)
					}
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Error("an escape sequence from outside reached the console")
			}
			for line := range strings.SplitSeq(strings.TrimSpace(j.String()), "\n") {
				if !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
		})
	}
}

// TestRedraw shows that a fast download does not flood a slow line.
func TestRedraw(t *testing.T) {
	var now time.Duration
	var out bytes.Buffer
	c := console.New(console.Options{Out: &out, Now: func() time.Duration { return now }})
	c.Stage(flow.StageFetch)
	const n = 10000 // in 10 s
	for i := range int64(n) {
		c.Progress(console.Progress{Done: i, Total: n, Rate: 1})
		now += time.Millisecond
	}
	if redraws := strings.Count(out.String(), "\r"); redraws > 40 || redraws < 20 {
		t.Errorf("%d redraws in 10 s; want about 33", redraws)
	}
}

func check(t *testing.T, name string, got []byte) {
	t.Helper()
	// A carriage return in a golden file would not survive an editor.
	golden.Check(t, filepath.Join("testdata", name), strings.ReplaceAll(string(got), "\r", "<CR>\n"))
}
