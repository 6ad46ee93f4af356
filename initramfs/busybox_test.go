package initramfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterrupted ends a build while gobusybox works, which cannot be interrupted.
func TestInterrupted(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // waits for its first directory
		for found := []string(nil); len(found) == 0 && ctx.Err() == nil; {
			found, _ = filepath.Glob(filepath.Join(tmp, "*", "gopath"))
		}
		cancel()
	}()
	_, err := Build(ctx, Options{Source: "..", Commands: []string{"./qemu/guest"}, Uinit: "guest"})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "writing the busybox sources") {
		t.Errorf("error %v, want the sources not to be finished", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
