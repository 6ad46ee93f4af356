// Package guard keeps the keys in a process's memory off the disks of its machine and away from its neighbours.
//
// All of the memory is locked, not pages of the keys' own. Those could hold the seal key and the cookie key; but a
// private key of crypto/ecdsa, an expanded AES key and what a release is made from lie in Go's heap and on its stacks,
// where no page of ours can be put around them. Only what is touched is locked (MCL_ONFAULT), so that the address space
// that Go reserves costs nothing.
package guard

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNotLocked says that memory may be written to swap.
var ErrNotLocked = errors.New("memory cannot be locked, so keys may be written to swap")

// NoCores has this process, and those it starts, leave no core dump.
func NoCores() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

// Hide keeps other processes of the same user from reading this one's memory, and the kernel from handing it to a
// program that collects cores, which RLIMIT_CORE does not.
func Hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide memory from other processes: %w", err)
	}
	return nil
}

// LockMemory keeps all memory that this process has or will have out of swap ([ErrNotLocked]).
//
// The limit has to be infinite, or the process privileged: Go's address space counts against it as a whole, and where
// the kernel refuses more of it later, the process ends.
func LockMemory() error {
	if err := raiseLimit(); err != nil {
		return fmt.Errorf("%w: %w; set LimitMEMLOCK=infinity (ulimit -l unlimited), or use a machine without swap", ErrNotLocked, err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("%w: mlockall: %w", ErrNotLocked, err)
	}
	return nil
}

func raiseLimit() error {
	err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err == nil {
		return nil
	}
	var have unix.Rlimit
	if lerr := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &have); lerr != nil {
		return errors.Join(err, lerr)
	}
	if mayLock() {
		return nil
	}
	if have.Max != unix.RLIM_INFINITY {
		return fmt.Errorf("the limit of locked memory is %d bytes: %w", have.Max, err)
	}
	have.Cur = have.Max
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &have)
}

// mayLock tells whether the process has the capability for which the limit does not count.
func mayLock() bool {
	var data [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
