package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/wire"
)

// crashEnv makes this test binary an attestd that kills itself between decision and answer: "DIR ADDR".
const crashEnv = "SEALBOOT_TEST_CRASHING_ATTESTD"

func TestMain(m *testing.M) {
	if dir, addr, ok := strings.Cut(os.Getenv(crashEnv), " "); ok {
		if err := crashingServer(dir, addr); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func crashingServer(dir, addr string) error {
	ctx := context.Background()
	st, err := site.Load(dir, time.Now)
	if err != nil {
		return err
	}
	db, err := st.OpenStore(ctx, time.Now)
	if err != nil {
		return err
	}
	s, err := New(Config{Site: st, Store: db})
	if err != nil {
		return err
	}
	s.appraisers.parse = admitAll
	s.afterDecide = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l, nil)
}

// TestKilledBetweenDecisionAndAnswer: the record is there, the challenge is spent, no secret left, and the
// device simply tries again.
func TestKilledBetweenDecisionAndAnswer(t *testing.T) {
	l := newLab(t)
	m := l.machine(1)
	id := l.enrol(m)
	l.stop()

	addr := strings.TrimPrefix(l.url, "https://")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashEnv+"="+l.dir+" "+addr)
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	waitForListener(t, addr)

	tap := l.tap(m)
	logs := m.measure(t, "good")
	if r, err := m.Boot(t.Context(), logs); r != nil || !errors.Is(err, device.ErrUnreachable) {
		t.Fatalf("Boot = %v, %v, want no release", r, err)
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("attestd ended with %v, want SIGKILL", err)
	}

	l.start(listen(t, addr))
	events := l.events()
	if last := events[len(events)-1]; last.Kind != "decision" || last.Verdict != "allow" || last.Device != id {
		t.Errorf("last audit record %+v, want the decision", last)
	}
	m.HTTP = l.client()
	if status, code := l.post(m.HTTP, wire.PathEvidence, tap.sent[wire.PathEvidence]); status != http.StatusConflict || code != wire.CodeReplayed {
		t.Errorf("the same evidence again: %d %s", status, code)
	}
	r, err := m.Boot(t.Context(), logs)
	if err != nil || !r.FirstBoot {
		t.Errorf("next try: %v", err)
	}
}

func waitForListener(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
