package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// TPMFilter answers a command of the machine's TPM: with what the TPM answers
// when it is passed on, or with something else. It is called for one command at
// a time.
type TPMFilter func(command []byte, pass func(command []byte) (response []byte, err error)) (response []byte, err error)

// between puts the filter on the line to a TPM and returns the machine's end.
//
// The line is swtpm's control channel. Over it QEMU sends, as a file descriptor
// next to the bytes, its end of the channel for TPM commands: that is where the
// filter's own is put in its place.
func (f TPMFilter) between(tpm *os.File) (machine *os.File, err error) {
	defer tpm.Close()
	near, err := net.FileConn(tpm)
	if err != nil {
		return nil, fmt.Errorf("qemu: filter of the TPM: %w", err)
	}
	far, machine, err := connPair("filtered tpm")
	if err != nil {
		near.Close()
		return nil, err
	}
	up, down := near.(*net.UnixConn), far.(*net.UnixConn)
	go func() { // ends when the TPM ends
		_, _ = io.Copy(down, up)
		down.Close()
	}()
	go func() { // ends when the machine ends, and the TPM with it
		_ = f.control(up, down)
		up.Close()
	}()
	return machine, nil
}

// control passes the control channel's bytes on, and exchanges what comes with them.
func (f TPMFilter) control(tpm, machine *net.UnixConn) error {
	buf, aside := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, na, _, _, err := machine.ReadMsgUnix(buf, aside)
		if err != nil || n == 0 {
			return err
		}
		var rights []byte
		if na > 0 {
			end, err := f.divert(aside[:na])
			if err != nil {
				return err
			}
			defer end.Close() // the TPM has its own by then
			rights = unix.UnixRights(int(end.Fd()))
		}
		if _, _, err := tpm.WriteMsgUnix(buf[:n], rights, nil); err != nil {
			return err
		}
	}
}

// divert takes the machine's end of the channel for commands, and returns
// another for the TPM.
func (f TPMFilter) divert(aside []byte) (*os.File, error) {
	machine, err := received(aside)
	if err != nil {
		return nil, err
	}
	tpm, end, err := connPair("tpm commands")
	if err != nil {
		machine.Close()
		return nil, err
	}
	go func() {
		defer machine.Close()
		defer tpm.Close()
		_ = f.commands(tpm, machine)
	}()
	return end, nil
}

// received is the one descriptor in a control message.
func received(aside []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(aside)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, errors.New("qemu: filter of the TPM: no descriptor")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "machine's tpm commands")
	defer file.Close()
	return net.FileConn(file)
}

// commands answers one command after the other.
func (f TPMFilter) commands(tpm, machine net.Conn) error {
	pass := func(command []byte) ([]byte, error) {
		if _, err := tpm.Write(command); err != nil {
			return nil, err
		}
		return readTPM(tpm)
	}
	for {
		command, err := readTPM(machine)
		if err != nil {
			return err
		}
		response, err := f(command, pass)
		if err != nil {
			return err
		}
		if _, err := machine.Write(response); err != nil {
			return err
		}
	}
}

// readTPM reads a command or a response: both begin with a tag (2 bytes) and
// their whole size (4 bytes).
func readTPM(r io.Reader) ([]byte, error) {
	const head, most = 6, 4096
	b := make([]byte, most)
	if _, err := io.ReadFull(r, b[:head]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[2:])
	if size < head || size > most {
		return nil, fmt.Errorf("qemu: a TPM message of %d bytes", size)
	}
	_, err := io.ReadFull(r, b[head:size])
	return b[:size], err
}
