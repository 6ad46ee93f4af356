package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/flow"
)

// patience is how long a worker may be silent. Every wait of its own has a
// deadline, but a thread in a driver that hangs obeys none.
type patience struct {
	silence time.Duration // while it works: it shows each step, and progress
	leaving time.Duration // after its last word, until its process is gone
}

// A serial line that takes nothing holds its process up for half a minute.
var workerPatience = patience{silence: time.Hour, leaving: 2 * time.Minute}

var (
	errSilent = errors.New("the worker was silent for too long and was killed")
	errStuck  = errors.New("the worker hangs in the kernel and cannot be killed")
)

// runWorker starts this program once more and waits for it. What it says goes
// to out, which must take it at once: then a worker never waits for a console.
func runWorker(out io.Writer, p patience) (flow.Outcome, error) {
	said, say, err := os.Pipe()
	if err != nil {
		return flow.Reboot, fmt.Errorf("start the worker: %w", err)
	}
	defer said.Close()
	cmd := exec.Command("/proc/self/exe", workerArg)
	cmd.Args[0] = "netboot" // a busybox goes by the name
	cmd.Stdout, cmd.Stderr = say, say
	cmd.Env = []string{"GOMEMLIMIT=" + strconv.FormatInt(heapLimit(), 10)}
	// Without the terminal no key reaches the worker; without its supervisor
	// it must not go on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	say.Close()
	if err != nil {
		return flow.Reboot, fmt.Errorf("start the worker: %w", err)
	}
	// If memory runs out, it is the worker that goes.
	write(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "oom_score_adj"), "500")
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	if err := p.await(exited, relay(said, out), func() { _ = cmd.Process.Kill() }); err != nil {
		return flow.Reboot, err
	}
	if cmd.ProcessState == nil {
		return flow.Reboot, errors.New("it is not known how the worker ended")
	}
	outcome, err := outcomeOf(cmd.ProcessState.ExitCode())
	if err != nil {
		return outcome, fmt.Errorf("%w: %v", err, cmd.ProcessState)
	}
	return outcome, nil
}

// relay passes on what the worker says. The channel tells that it said something,
// and is closed when it will say no more.
func relay(worker io.Reader, out io.Writer) <-chan struct{} {
	heard := make(chan struct{}, 1)
	go func() {
		defer close(heard)
		buf := make([]byte, 4<<10)
		for {
			n, err := worker.Read(buf)
			_, _ = out.Write(buf[:n])
			if err != nil {
				return
			}
			select {
			case heard <- struct{}{}:
			default: // it is known already
			}
		}
	}()
	return heard
}

// await waits until the worker has exited and everything that it said was heard.
// A worker that is silent for too long is killed, and given up if that does not
// end it.
func (p patience) await(exited, heard <-chan struct{}, kill func()) error {
	limit, killed := p.silence, false
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for exited != nil || heard != nil {
		select {
		case <-exited:
			exited, limit = nil, p.leaving
		case _, more := <-heard:
			if !more {
				heard, limit = nil, p.leaving
			}
		case <-timer.C:
			if killed {
				return errStuck
			}
			kill()
			killed, limit = true, p.leaving
		}
		timer.Reset(limit)
	}
	if killed {
		return errSilent
	}
	return nil
}

const (
	minHeap = 48 << 20
	maxHeap = 256 << 20
)

// heapLimit is where Go's collector starts to work hard, in bytes. Images are
// not on the heap, so a quarter of a small machine is plenty.
func heapLimit() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return minHeap
	}
	total := int64(info.Totalram) * int64(info.Unit)
	return min(maxHeap, max(minHeap, total/4))
}
