// Package armor carries a firmware event log through a console.
//
// The recorder has no disk and no network: it prints the log, and whoever
// captured the console finds it there again, among what firmware and kernel
// printed. The form is PEM (RFC 7468) with a label of its own.
package armor

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// label stands in the lines around the log.
const label = "TCG EVENT LOG"

var (
	// ErrNone means that a text holds no event log.
	ErrNone = errors.New("no event log of the recorder")
	// ErrDamaged means that it holds one that lost its end or has other text in it.
	ErrDamaged = errors.New("the recorder's event log is damaged: capture the console again")
)

// Print writes a log, on lines of its own.
func Print(w io.Writer, log []byte) error {
	// Whatever was printed before may have left the last line open.
	text := append([]byte("\n"), pem.EncodeToMemory(&pem.Block{Type: label, Bytes: log})...)
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
		if block != nil && block.Type == label && len(block.Headers) == 0 {
			return block.Bytes, nil
		}
		text, err = text[len(begin):], ErrDamaged
	}
	return nil, err
}
