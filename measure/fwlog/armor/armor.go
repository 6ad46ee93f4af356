// Package armor carries a firmware event log through a console.
//
// The recorder has no disk and no network: it prints the log, and anyone who
// captured the console finds it there again, among what firmware and kernel
// printed. The form is PEM with a label of its own and, since a serial line may lose
// a character, a header with the digest of what it carries.
package armor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

const (
	label  = "TCG EVENT LOG" // stands in the lines around the log
	digest = "SHA-256"       // the name of the header
)

var (
	// ErrNone means that a text holds no event log.
	ErrNone = errors.New("no event log of the recorder")
	// ErrDamaged means that it holds one, but none that is as it was printed.
	ErrDamaged = errors.New("the recorder's event log is damaged")
)

// Print writes a log, on lines of its own.
func Print(w io.Writer, log []byte) error {
	block := &pem.Block{Type: label, Headers: map[string]string{digest: sum(log)}, Bytes: log}
	// Whatever was printed before may have left the last line open.
	text := append([]byte("\n"), pem.EncodeToMemory(block)...)
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("print the event log: %w", err)
	}
	return nil
}

// Find returns the first whole log in a text. Lines may end as they do on a
// terminal.
func Find(text []byte) ([]byte, error) {
	begin := []byte("-----BEGIN " + label + "-----")
	err := ErrNone
	for at := bytes.Index(text, begin); at >= 0; at = bytes.Index(text, begin) {
		text = text[at:]
		block, _ := pem.Decode(text)
		if block != nil && block.Type == label && block.Headers[digest] == sum(block.Bytes) {
			return block.Bytes, nil
		}
		text, err = text[len(begin):], ErrDamaged
	}
	return nil, err
}

func sum(log []byte) string {
	d := sha256.Sum256(log)
	return hex.EncodeToString(d[:])
}
