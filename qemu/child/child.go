// Package child runs processes that cannot outlive the one that started them,
// however it ends: a test that is killed leaves no server behind.
package child

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running child, the leader of a process group of its own.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; valid after done
}

// Start starts cmd. The kernel kills a child when the thread that started it
// ends, so that thread is held until the child has ended; a goroutine that moved
// on would leave it to be reused or retired.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("starting %s: %w", cmd.Path, err)
			return
		}
		started <- nil
		p.reap()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// reap waits for the process, and ends what is left of its group: until the leader
// is waited for, its number is no one else's.
func (p *Process) reap() {
	pid := p.cmd.Process.Pid
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	p.err = p.cmd.Wait()
	close(p.done)
}

// Run runs cmd to its end. When ctx ends first, cmd is asked to end too, and is
// killed when it has not within grace.
func Run(ctx context.Context, cmd *exec.Cmd, grace time.Duration) error {
	p, err := Start(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.Stop(grace)
		return context.Cause(ctx)
	}
}

// Done is closed when the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended, as of [exec.Cmd.Wait]. It may be called after Done.
func (p *Process) Err() error { return p.err }

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process and its group, and waits until it is gone. It may be
// called again.
func (p *Process) Kill() { p.signal(syscall.SIGKILL) }

// Stop asks the process and its group to end, as a terminal would, and kills them when
// the process has not ended within grace.
func (p *Process) Stop(grace time.Duration) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	p.Kill()
}

func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done: // its number may belong to another process by now
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, s)
	<-p.done
}
