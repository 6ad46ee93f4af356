// Package fwlog reads the event log of the platform firmware: a crypto-agile log
// of the TCG PC Client Platform Firmware Profile (PFP), section 10.
//
// The parser refuses what it does not understand completely. What it returns is
// still only a claim: it becomes evidence when [Log.Replay] gives the PCRs of a
// quote, and then only digests and PCR numbers do. An event's type is never
// hashed, and its data only for some types: both are for people.
//
// The package judges bytes and opens nothing; a machine's own log is read by
// [github.com/sealboot/sealboot/measure/fwlog/securityfs].
package fwlog

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/pcr"
)

// Limits of a log.
const (
	MaxSize   = 1 << 20 // bytes
	MaxEvents = 4096
)

// NoPCR is the PCR of an event that says it belongs to none. Only
// [EventNoAction] can.
const NoPCR = -1

var (
	// ErrMalformed is wrapped by every error of [Parse].
	ErrMalformed = errors.New("malformed firmware event log")
	// ErrNoLog means that the firmware has left no log, or that it is not visible.
	ErrNoLog = errors.New("no firmware event log")
)

// Log is a parsed log.
type Log struct {
	Banks  []tpm2.TPMAlgID // the banks that every event has a digest for
	Events []Event         // without the header

	// StartupLocality is the locality that the TPM was started from: the initial
	// value of PCR 0. It is 0, 3 or 4.
	StartupLocality byte
}

// Event is one event of a log.
type Event struct {
	Num     int // counted from 0, the header; for messages
	PCR     int // or NoPCR
	Type    EventType
	Digests map[tpm2.TPMAlgID][]byte // one a bank
	Data    []byte                   // what the firmware says about it
}

// Replay returns the PCRs of a bank as the log says they are: those that were
// extended at least once.
func (l *Log) Replay(bank tpm2.TPMAlgID) (pcr.Values, error) {
	values := make(pcr.Values)
	for _, e := range l.Events {
		if !e.Extends() {
			continue
		}
		digest, ok := e.Digests[bank]
		if !ok {
			return nil, fmt.Errorf("replay firmware event log: it has no digests for bank %s", pcr.BankName(bank))
		}
		if _, ok := values[0]; !ok && e.PCR == 0 {
			zero := pcr.Zero(bank)
			if len(zero) > 0 {
				zero[len(zero)-1] = l.StartupLocality
			}
			values[0] = zero
		}
		if err := values.Extend(bank, e.PCR, digest); err != nil {
			return nil, fmt.Errorf("replay firmware event %d: %w", e.Num, err)
		}
	}
	return values, nil
}

// Extends reports whether the event was extended into its PCR.
func (e Event) Extends() bool { return e.Type != EventNoAction }
