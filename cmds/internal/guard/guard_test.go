package guard

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuard runs itself again, since what it does to a process is for good, and looks at what the kernel says of it.
func TestGuard(t *testing.T) {
	const child = "SEALBOOT_TEST_GUARD"
	if os.Getenv(child) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuard$")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	kernel := func(file, pattern string) bool {
		text, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(pattern).Match(text)
	}
	if err := NoCores(); err != nil || !kernel("limits", `Max core file size +0 +0 `) {
		t.Errorf("cores may be written: %v", err)
	}
	if err := LockMemory(); err == nil && kernel("status", `VmLck:\s+0 kB`) {
		t.Error("no memory is locked, and no error")
	} else if err != nil && !errors.Is(err, ErrNotLocked) {
		t.Errorf("LockMemory() = %v, want ErrNotLocked", err)
	}
	if err := Hide(); err != nil {
		t.Error(err)
	}
	if dumpable, err := dumpable(); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d: %v", dumpable, err)
	}
}

func dumpable() (int, error) { return unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0) }
