// Package tpm talks to a TPM 2.0 for a program that must not hang, leak or guess.
//
// It is the transport under go-tpm's tpm2 package and a few operations that need
// care: reading and extending PCRs in every active bank, reading NV indices and
// flushing what was left loaded. It promises that
//
//   - no command waits without a deadline, even if the kernel or the TPM hangs;
//   - a response that comes too late is dropped, never taken for another one;
//   - a command is repeated only when the TPM says that it did not run it.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/measure/pause"
)

// Timeouts of one command with all its repetitions, if the context of the call
// does not bound it sooner. Making an RSA key can take a discrete TPM tens of
// seconds; everything else takes it two at most.
const (
	CommandTimeout = 20 * time.Second
	KeyTimeout     = 2 * time.Minute
)

const (
	openTimeout  = 5 * time.Second // for a device that is busy or not there yet
	firstBackoff = 5 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
)

// ErrTimeout means that the TPM did not answer in time. It may still carry out
// the command: nothing is known about its state.
var ErrTimeout = errors.New("TPM did not answer in time")

// TPM is a connection to a TPM. It is safe for concurrent use; commands run one
// at a time.
type TPM struct {
	addr string
	conn io.ReadWriteCloser

	// turn holds a token while a command is running, also when the caller that sent it
	// has stopped waiting.
	turn chan struct{}

	// broken is why the connection cannot be used any more: after an I/O error
	// no one knows which bytes come next. It belongs to the command that has the turn.
	broken error
}

var _ transport.TPMCloser = (*TPM)(nil)

// Open connects to the TPM at addr:
//
//	/dev/tpmrm0    a device
//	unix:PATH      a Unix socket that speaks raw TPM commands, as swtpm does
//	tcp:HOST:PORT  the same over TCP
//
// It waits up to 5 s for a device that is busy or does not exist yet.
func Open(ctx context.Context, addr string) (*TPM, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		conn, err := dial(ctx, addr)
		if err == nil {
			return New(addr, conn), nil
		}
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("open TPM %s: %w", addr, err)
		}
		if pause.For(ctx, wait) != nil {
			return nil, fmt.Errorf("open TPM %s: %w (is the driver in the kernel, and nothing else using the TPM?)", addr, err)
		}
	}
}

// New returns a TPM that sends its commands over conn: a Write is one command,
// and Reads return its response. The TPM owns conn; addr is for messages.
func New(addr string, conn io.ReadWriteCloser) *TPM {
	return &TPM{addr: addr, conn: conn, turn: make(chan struct{}, 1)}
}

func dial(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	if hostport, ok := strings.CutPrefix(addr, "tcp:"); ok {
		return new(net.Dialer).DialContext(ctx, "tcp", hostport)
	}
	// A blocking descriptor, which os.OpenFile would not give: in non-blocking
	// mode the kernel's TPM device answers an early read with an end of file.
	fd, err := unix.Open(addr, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: addr, Err: err}
	}
	return os.NewFile(uintptr(fd), addr), nil
}

// String returns the address of the TPM.
func (t *TPM) String() string { return t.addr }

// Close closes the connection. The kernel's resource manager then flushes all
// that was loaded over it.
func (t *TPM) Close() error {
	if err := t.conn.Close(); err != nil {
		return fmt.Errorf("close TPM %s: %w", t.addr, err)
	}
	return nil
}

// Send runs one command and returns its response, within [CommandTimeout], or
// [KeyTimeout] if the command makes a key. It makes the TPM a transport of go-tpm; [TPM.With] bounds it by a context.
func (t *TPM) Send(command []byte) ([]byte, error) {
	return t.send(context.Background(), command)
}

// With returns a transport whose commands also end when ctx ends.
func (t *TPM) With(ctx context.Context) transport.TPM {
	return boundTPM{t, ctx}
}

type boundTPM struct {
	tpm *TPM
	ctx context.Context //nolint:containedctx // the transport's Send has no context parameter
}

func (b boundTPM) Send(command []byte) ([]byte, error) { return b.tpm.send(b.ctx, command) }

// send repeats a command until the TPM has run it or time is up.
func (t *TPM) send(ctx context.Context, command []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(command))
	defer cancel()
	busy := false
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		response, err := t.sendOnce(ctx, command)
		if err == nil && notRun(response) || errors.Is(err, syscall.EBUSY) {
			busy = true
			if pause.For(ctx, wait) == nil {
				continue
			}
			err = t.gaveUp(ctx, command)
		}
		if busy && errors.Is(err, ErrTimeout) {
			err = fmt.Errorf("%w: it says that it is busy; switch the machine off and on", err)
		}
		return response, err
	}
}

type result struct {
	response []byte
	err      error
}

// sendOnce hands the command to a goroutine, since a hung driver cannot be
// interrupted, and gives up waiting when ctx ends. The goroutine keeps its turn
// until the response is there, so that no other command can take that for its own.
func (t *TPM) sendOnce(ctx context.Context, command []byte) ([]byte, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, t.gaveUp(ctx, command)
	}
	if ctx.Err() != nil {
		<-t.turn
		return nil, t.gaveUp(ctx, command)
	}
	done := make(chan result, 1)
	sent := append([]byte(nil), command...) // the caller may reuse or wipe its own
	go func() {
		defer func() { <-t.turn }()
		response, err := t.exchange(sent)
		clear(sent)
		done <- result{response, err}
	}()
	select {
	case r := <-done:
		if errors.Is(r.err, syscall.ETIME) { // the driver gave up
			r.err = fmt.Errorf("%w: %w", ErrTimeout, r.err)
		}
		if r.err != nil {
			return nil, fmt.Errorf("TPM %s, command %s: %w", t.addr, commandName(command), r.err)
		}
		return r.response, nil
	case <-ctx.Done():
		return nil, t.gaveUp(ctx, command)
	}
}

func (t *TPM) exchange(command []byte) ([]byte, error) {
	if t.broken != nil {
		return nil, fmt.Errorf("connection is broken since: %w", t.broken)
	}
	response, err := exchange(t.conn, command)
	if err != nil && !errors.Is(err, syscall.EBUSY) {
		t.broken = err
	}
	return response, err
}

func (t *TPM) gaveUp(ctx context.Context, command []byte) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return fmt.Errorf("TPM %s, command %s: %w", t.addr, commandName(command), err)
}
