package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// TPM 2.0 Library, Part 1, section 18: the header of a command or a response is a
// tag (2 bytes), its whole size (4) and a command or response code (4).
const (
	headerSize      = 10
	maxResponseSize = 4096
)

var errResponse = errors.New("malformed response")

// exchange writes one command and reads its response.
func exchange(conn io.ReadWriter, command []byte) ([]byte, error) {
	if len(command) < headerSize || len(command) > maxResponseSize {
		return nil, fmt.Errorf("a command cannot be %d bytes", len(command))
	}
	if _, err := conn.Write(command); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	return readResponse(conn)
}

// readResponse reads exactly one response. A device hands it out in a single
// read and drops what does not fit, so every read offers all the room there is;
// a socket may need several.
func readResponse(conn io.Reader) ([]byte, error) {
	buf := make([]byte, maxResponseSize)
	n, size := 0, headerSize
	for n < size {
		m, err := conn.Read(buf[n:])
		n += m
		if n >= headerSize {
			claimed := binary.BigEndian.Uint32(buf[2:])
			if claimed < headerSize || claimed > maxResponseSize {
				return nil, fmt.Errorf("%w: it says that it is %d bytes", errResponse, claimed)
			}
			size = int(claimed)
		}
		if n >= size {
			break
		}
		if err == nil && m == 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read after %d bytes: %w", n, err)
		}
	}
	if n > size {
		return nil, fmt.Errorf("%w: %d bytes after its end", errResponse, n-size)
	}
	return buf[:size:size], nil
}

// notRun reports whether the TPM refused to run the command for now: it did
// nothing, and the same bytes may be sent again.
func notRun(response []byte) bool {
	switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

// timeout is how long a command may take.
func timeout(command []byte) time.Duration {
	if len(command) < headerSize {
		return CommandTimeout
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate, tpm2.TPMCCCreateLoaded:
		return KeyTimeout
	}
	return CommandTimeout
}

// commandName names a command for messages.
func commandName(command []byte) string {
	if len(command) < headerSize {
		return "(none)"
	}
	return fmt.Sprintf("%#x", binary.BigEndian.Uint32(command[6:]))
}
