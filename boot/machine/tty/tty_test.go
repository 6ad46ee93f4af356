package tty

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// terminal returns a pseudo terminal, whose other end reads nothing.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return tty
}

func TestDrain(t *testing.T) {
	tty := terminal(t)
	if _, err := tty.WriteString("all of it"); err != nil {
		t.Fatal(err)
	}
	if err := Drain(tty, time.Minute); err != nil {
		t.Errorf("a terminal: %v", err)
	}
}

// TestDrainRefusesPipes pins that no one takes one for drained: standard output
// is one under u-root's init.
func TestDrainRefusesPipes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := Drain(w, time.Minute); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("a pipe: error %v, want %v", err, unix.ENOTTY)
	}
}

func TestNames(t *testing.T) {
	const list = "ttyS0                -W- (EC    a)    4:64 \n" +
		"tty0                 -WU (E  p  )    4:1\n" +
		"netcon0              -W- (E     )\n"
	if diff := cmp.Diff([]string{"ttyS0", "tty0", "netcon0"}, names(list)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := names("\n"); got != nil {
		t.Errorf("names of an empty line: %q", got)
	}
}
