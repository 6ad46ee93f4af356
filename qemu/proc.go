package qemu

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// proc is a child process that cannot outlive this one.
type proc struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
	err  error         // of Wait; valid after done
}

// start starts cmd in a process group of its own, killed by the kernel when
// the starting thread ends. That thread is therefore held until the child ends;
// a goroutine that moved on would leave the thread to be reused or retired.
func start(cmd *exec.Cmd) (*proc, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &proc{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("qemu: starting %s: %w", cmd.Path, err)
			return
		}
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process and its group, and waits until it is gone. It may be
// called again.
func (p *proc) kill() {
	select {
	case <-p.done: // its number may belong to another process by now
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}
