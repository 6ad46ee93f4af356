// Package regular opens files on volumes that anybody may have written.
//
// A named pipe in place of a file would hold the machine in open(2) for ever: no context ends that. So nothing is
// opened in a way that waits, and what is no regular file is refused.
package regular

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Err is wrapped by the error about something that is no regular file: a pipe, a directory, a device, a socket.
var Err = errors.New("not a regular file")

// Open opens a regular file below root, as [os.Root.OpenFile] does.
func Open(root *os.Root, name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := root.OpenFile(name, flag|unix.O_NONBLOCK, perm)
	if errors.Is(err, unix.ENXIO) { // a pipe that no one reads, a socket
		return nil, fmt.Errorf("%s: %w: %w", name, Err, err)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", name, Err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
