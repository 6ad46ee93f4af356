package child

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	if err := Run(t.Context(), exec.Command("true"), time.Minute); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := Run(t.Context(), exec.Command("false"), time.Minute); !errors.As(err, &exit) {
		t.Errorf("Run = %v, want an exit status", err)
	}
}

// TestRunIsInterrupted: the program may clean up, and what it has started ends with it.
func TestRunIsInterrupted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "trap 'echo cleaned up; exit 0' TERM; sleep 600 & echo ready; wait")
	cmd.Stdout = w
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, cmd, time.Minute)
		w.Close()
	}()
	out := bufio.NewReader(r)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
	// The sleeping grandchild holds the pipe, too.
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "cleaned up\n" {
		t.Errorf("%q, %v", rest, err)
	}
}
