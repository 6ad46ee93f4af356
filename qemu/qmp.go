package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// socketPair returns two connected stream sockets.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("qemu: making the %s channel: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// connPair is socketPair with our end as a connection.
func connPair(name string) (net.Conn, *os.File, error) {
	ours, theirs, err := socketPair(name)
	if err != nil {
		return nil, nil, err
	}
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("qemu: making the %s channel: %w", name, err)
	}
	return conn, theirs, nil
}

// qmpMessage is a greeting, an answer or an event of QEMU's control protocol.
type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class, Desc string
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

// qmp is a client of QEMU's control protocol: one command at a time, and
// events as they come.
type qmp struct {
	conn    net.Conn
	mu      sync.Mutex // one command at a time
	answers chan qmpMessage
	onEvent func(name, reason string)
}

func newQMP(conn net.Conn, onEvent func(name, reason string)) *qmp {
	q := &qmp{conn: conn, answers: make(chan qmpMessage, 1), onEvent: onEvent}
	go q.read()
	return q
}

func (q *qmp) read() {
	defer close(q.answers)
	dec := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			return
		}
		switch {
		case m.Event != "":
			q.onEvent(m.Event, m.Data.Reason)
		case m.QMP != nil: // the greeting
		default:
			q.answers <- m
		}
	}
}

// run executes one command and returns its result.
func (q *qmp) run(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	request := struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments}
	b, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("qemu: %s: %w", command, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = q.conn.SetWriteDeadline(deadline)
	} else {
		_ = q.conn.SetWriteDeadline(time.Time{})
	}
	if _, err := q.conn.Write(b); err != nil {
		return nil, fmt.Errorf("qemu: %s: %w", command, err)
	}
	select {
	case m, ok := <-q.answers:
		if !ok {
			return nil, fmt.Errorf("qemu: %s: %w", command, ErrExited)
		}
		if m.Error != nil {
			return nil, fmt.Errorf("qemu: %s: %w", command, errors.New(m.Error.Desc))
		}
		return m.Return, nil
	case <-ctx.Done():
		q.conn.Close() // a late answer would be taken for the next command's
		return nil, fmt.Errorf("qemu: %s: %w", command, ctx.Err())
	}
}
