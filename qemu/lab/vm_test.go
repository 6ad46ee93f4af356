//go:build vm

package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/qemu"
)

// shared is the site that all tests use. Each test has a machine of its own, and
// puts back what it changes of the site.
var shared *Lab

// TestMain prepares the site. SEALBOOT_LAB_DIR keeps what a run makes.
func TestMain(m *testing.M) {
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepared(m *testing.M) (int, error) {
	dir := os.Getenv("SEALBOOT_LAB_DIR")
	if dir == "" {
		temporary, err := os.MkdirTemp("", "sealboot-lab-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(temporary)
		dir = temporary
	}
	// Two banks: everything that is measured is measured into both.
	o := Options{Source: "../..", Dir: dir, Banks: "sha256,sha384", Out: os.Stderr}
	var err error
	if shared, err = Prepare(context.Background(), o); err != nil {
		return 1, err
	}
	defer shared.Close()
	shared.o.Out, shared.stages = io.Discard, newStages(io.Discard)
	return m.Run(), nil
}

// machine gives the lab a new machine: a TPM that is enrolled, and a blank disk.
func machine(t *testing.T) *Lab {
	t.Helper()
	l := shared
	l.unit = strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	l.facts.boots = nil
	if err := errors.Join(l.makeTPM(t.Context()), l.enrol(t.Context())); err != nil {
		t.Fatal(err)
	}
	return l
}

// trustLoader makes the loader of this machine a good one of the site.
func (l *Lab) trustLoader(ctx context.Context) error {
	reference := l.unitPath("loader.json")
	if err := l.predictLoader(ctx, strings.ToLower(l.unit), reference); err != nil {
		return err
	}
	_, err := l.sealboot(ctx, "policy", "add", "--dir", l.site, reference)
	return err
}

// switchOn boots the machine until it is off again. A test that fails prints its console.
func switchOn(t *testing.T, l *Lab, c qemu.Config) *Boot {
	t.Helper()
	return switchOnWith(t, l, c, func(*qemu.VM) error { return nil })
}

// switchOnWith also lets somebody at the machine while it is on.
func switchOnWith(t *testing.T, l *Lab, c qemu.Config, at func(*qemu.VM) error) *Boot {
	t.Helper()
	b, err := l.bootWith(t.Context(), c, at)
	t.Cleanup(func() {
		if t.Failed() && b != nil {
			t.Logf("the console of the machine:\n%s", qemu.Plain(b.Console))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the machine was on for %.1f s", b.Took.Seconds())
	return b
}

// wantRefusal checks that the loader ended the boot in a stage, with texts in
// the reason that it showed to people and to programs alike.
func wantRefusal(t *testing.T, b *Boot, stage string, texts ...string) {
	t.Helper()
	f := b.Failed()
	if f == nil {
		t.Fatal("the loader did not fail")
	}
	t.Logf("%s: %s; next: %s", f.Stage, f.Text, f.Next)
	if f.Stage != stage {
		t.Errorf("it failed in stage %s, want %s", f.Stage, stage)
	}
	for _, text := range texts {
		if !strings.Contains(f.Text, text) {
			t.Errorf("the reason does not say %q", text)
		}
	}
	if !strings.Contains(b.Console, "FAILED at "+f.Stage) {
		t.Error("the console does not show the failure")
	}
	if len(b.Demo()) > 0 {
		t.Error("an operating system ran")
	}
}

// wantEnd checks how the machine ended.
func wantEnd(t *testing.T, b *Boot, reason string) {
	t.Helper()
	if b.Exit.Reason != reason {
		t.Errorf("the machine's end was %q, want %q", b.Exit.Reason, reason)
	}
}

// The ways in which a machine ends.
const (
	reset    = "guest-reset"
	poweroff = "guest-shutdown"
)

// wantBlank checks that no one has written to the machine's data disk.
func wantBlank(t *testing.T, l *Lab) {
	t.Helper()
	b, err := os.ReadFile(l.dataDisk())
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("the data disk is not blank: byte %d", i)
	}
}

// verdicts are those that attestd has given on the machine, newest last, out
// of the audit log, whose chain is checked up to its signed head.
func verdicts(t *testing.T, l *Lab) (allowed int, events []store.Event) {
	t.Helper()
	var chain store.Verifier
	lines := bufio.NewScanner(bytes.NewReader(admin(t, l, "audit")))
	for lines.Scan() {
		var r store.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if err := chain.Add(r); err != nil {
			t.Fatal(err)
		}
		_, e, err := r.Event()
		if err != nil {
			t.Fatal(err)
		}
		if e.Device != l.facts.device || e.Kind != "decision" {
			continue
		}
		events = append(events, e)
		if e.Verdict == "allow" && e.Phase == "boot" {
			allowed++
		}
	}
	var heads []store.Head
	if err := json.Unmarshal(admin(t, l, "audit/heads"), &heads); err != nil || len(heads) != 1 {
		t.Fatalf("%d heads of the audit log: %v", len(heads), err)
	}
	s, err := site.Load(l.site, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(heads[0].Verify(s.ServerPublic()), chain.At(heads[0])); err != nil {
		t.Fatal(err)
	}
	return allowed, events
}

// admin gets a page of attestd's.
func admin(t *testing.T, l *Lab, page string) []byte {
	t.Helper()
	resp, err := http.Get(l.StatusPage() + page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v", page, resp.Status, err)
	}
	return b
}

// wantReleases checks how many releases attestd has granted to the machine.
func wantReleases(t *testing.T, l *Lab, want int) {
	t.Helper()
	if allowed, events := verdicts(t, l); allowed != want {
		t.Errorf("attestd granted %d releases, want %d: %+v", allowed, want, events)
	}
}

// wantUp checks that the operating system did everything that it should.
func wantUp(t *testing.T, b *Boot) {
	t.Helper()
	if !b.OK() {
		t.Fatalf("the operating system did not do its work: %q; the loader: %+v", b.Demo(), b.Failed())
	}
}

// tampered makes a change, which is undone at the end of the test.
func tampered(t *testing.T, l *Lab, change Tamper) {
	t.Helper()
	loader, front := l.loader, l.attestd
	l.o.Tamper = change
	t.Cleanup(func() { restore(t, l, loader, front) })
	if err := l.tamper(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// restore puts back what tampering may have changed.
func restore(t *testing.T, l *Lab, loader string, front int) {
	t.Helper()
	was := l.o.Tamper
	l.o.Tamper, l.loader = "", loader
	ctx := context.Background()
	switch was {
	case TamperKernel, TamperInitrd, TamperCmdline:
		if err := l.push(ctx, l.facts.layout); err != nil {
			t.Error(err)
		}
	case TamperLog, TamperM4, TamperReplay:
		l.middle.stop()
		l.middle = nil
		l.server.Stop(5 * time.Second)
		l.attestd = cmp.Or(front, l.attestd)
		if err := l.startAttestd(ctx); err != nil {
			t.Error(err)
		}
	}
}
