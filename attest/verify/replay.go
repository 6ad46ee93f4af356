package verify

import (
	"bytes"
	"encoding/hex"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
)

// logs are both logs, which together explain every quoted PCR.
type logs struct {
	firmware []fwlog.Event
	loader   []cel.Entry
}

// replay parses the logs and compares what they give with what was quoted.
func (s *Site) replay(e *wire.Evidence, quoted keys.PCRs) (*logs, error) {
	var l logs
	values := pcr.Values{}
	if len(e.FirmwareLog) > 0 {
		parsed, err := fwlog.Parse(e.FirmwareLog)
		if err != nil {
			return nil, refuse(wire.CodeLog, "firmware log: %v", err)
		}
		l.firmware = parsed.Events
		if err := s.checkForeign(&l); err != nil {
			return nil, err
		}
		if values, err = parsed.Replay(quoted.Bank); err != nil {
			return nil, refuse(wire.CodeLog, "firmware log: %v", err)
		}
	}
	var err error
	if l.loader, err = cel.Parse(e.EventLog); err != nil {
		return nil, refuse(wire.CodeLog, "loader's log: %v", err)
	}
	for _, entry := range l.loader {
		if entry.PCR != s.imagePCR() && entry.PCR != s.authPCR() {
			return nil, &Refusal{wire.Reason{Code: wire.CodeForeignEvent, PCR: wire.At(entry.PCR), Event: Describe(entry.Record),
				Detail: "the loader's log speaks of a PCR that is not the loader's"}}
		}
	}
	if values, err = cel.Replay(values, l.loader, quoted.Bank); err != nil {
		return nil, refuse(wire.CodeLog, "loader's log: %v", err)
	}
	return &l, compare(quoted, values)
}

// checkForeign refuses a firmware event in the loader's PCRs: systemd-stub can be made to write there.
func (s *Site) checkForeign(l *logs) error {
	for _, e := range l.firmware {
		if e.PCR == s.imagePCR() || e.PCR == s.authPCR() {
			return &Refusal{wire.Reason{Code: wire.CodeForeignEvent, PCR: wire.At(e.PCR), Event: DescribeFirmware(e),
				Detail: "firmware or the boot stub wrote to a PCR of the loader"}}
		}
	}
	return nil
}

// compare finds the first quoted PCR that the logs do not explain.
func compare(quoted keys.PCRs, replayed pcr.Values) error {
	for i, index := range quoted.Index {
		want, ok := replayed[index]
		if !ok {
			want = pcr.Zero(quoted.Bank)
		}
		if !bytes.Equal(want, quoted.Values[i]) {
			return &Refusal{wire.Reason{
				Code: wire.CodeReplay, PCR: wire.At(index),
				Expected: hex.EncodeToString(want), Found: hex.EncodeToString(quoted.Values[i]),
				Detail: "the log gives another value than the TPM: it was edited or cut, or something was measured without being logged",
			}}
		}
	}
	return nil
}

// checkPhase compares the markers in the image PCR with what the device asks for.
func (s *Site) checkPhase(phase wire.Phase, loader []cel.Entry) error {
	at := func(r event.Record, detail string) error {
		return &Refusal{wire.Reason{Code: wire.CodePhase, PCR: wire.At(s.imagePCR()), Event: Describe(r), Detail: detail}}
	}
	capped := false
	for _, e := range loader {
		if e.PCR != s.imagePCR() {
			continue
		}
		switch {
		case capped:
			return at(e.Record, "measured after the cap")
		case e.Record.Type == event.TypeShell, e.Record.Type == event.TypeFailed:
			return at(e.Record, "nothing is granted in a boot with this marker; restart the machine")
		case e.Record.Type == event.TypeCap && phase == wire.PhaseBoot:
			return at(e.Record, "the loader has ended; secrets are released before that only")
		}
		capped = e.Record.Type == event.TypeCap
	}
	if phase == wire.PhaseRenew && !capped {
		return refuse(wire.CodePhase, "the loader has not ended: a renewal comes from the operating system")
	}
	return nil
}
