package policy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
)

// RootOfTrust classes a platform by who could replace the code that measures first.
type RootOfTrust string

// The classes, strongest first.
const (
	RootHardware RootOfTrust = "hardware" // the processor verifies or measures the first code (Boot Guard, PSB, fused ROM)
	RootLocked   RootOfTrust = "locked"   // the first code lies in flash that is locked until reset
	RootWritable RootOfTrust = "writable" // anyone who can write flash can replay a good log: coreboot without a lock
	RootVirtual  RootOfTrust = "virtual"  // a virtual machine: the host decides
)

// RootsOfTrust are the names of all classes, strongest first.
func RootsOfTrust() []string {
	return []string{string(RootHardware), string(RootLocked), string(RootWritable), string(RootVirtual)}
}

// Strength orders the classes: a stronger one is higher, an unknown one 0.
func (r RootOfTrust) Strength() int {
	return 1 + slices.Index([]RootOfTrust{RootVirtual, RootWritable, RootLocked, RootHardware}, r)
}

// Match says how the events of a PCR are compared.
type Match string

// The ways to compare.
const (
	MatchSequence Match = "sequence" // exactly these events in this order
	MatchSet      Match = "set"      // only these events, in any order and number; the loader exactly once
	MatchAny      Match = "any"      // whatever there is; the rule says why
)

// Profile is what the platform firmware of one hardware model measures into PCR 0-7.
type Profile struct {
	Header
	RootOfTrust RootOfTrust `json:"rootOfTrust"`
	Rules       []PCRRule   `json:"rules"`
}

// PCRRule is about one PCR. A PCR without a rule must have no events.
type PCRRule struct {
	PCR    int            `json:"pcr"`
	Match  Match          `json:"match"`
	Reason string         `json:"reason,omitempty"` // why it is not compared, for [MatchAny]
	Events []ProfileEvent `json:"events,omitempty"`
}

// ProfileEvent is one event that firmware may measure.
type ProfileEvent struct {
	// Event says what it is, for people: the type and what the data seems to be. Neither is covered by the digest.
	Event string `json:"event,omitempty"`
	// Digests are those allowed, any of them.
	Digests []Digests `json:"digests,omitempty"`
	// Loader stands for the events of the loader, taken from its own reference. PCR 4 only.
	Loader bool `json:"loader,omitempty"`
}

func (p *Profile) check() error {
	if err := p.Header.check(KindProfile); err != nil {
		return err
	}
	if !slices.Contains(RootsOfTrust(), string(p.RootOfTrust)) {
		return fmt.Errorf("rootOfTrust is %q, want hardware, locked, writable or virtual", p.RootOfTrust)
	}
	seen := map[int]bool{}
	for i := range p.Rules {
		r := &p.Rules[i]
		if err := r.check(); err != nil {
			return fmt.Errorf("rule for PCR %d: %w", r.PCR, err)
		}
		if seen[r.PCR] {
			return fmt.Errorf("two rules for PCR %d", r.PCR)
		}
		seen[r.PCR] = true
	}
	for _, index := range []int{0, 2, 4, 7} {
		if !seen[index] {
			return fmt.Errorf("no rule for PCR %d, without which a profile says nothing about the firmware", index)
		}
	}
	return nil
}

func (r *PCRRule) check() error {
	if r.PCR < 0 || r.PCR > 7 {
		return errors.New("the platform firmware has PCR 0 to 7")
	}
	exact := r.Match == MatchSequence || r.Match == MatchSet
	switch {
	case !exact && r.Match != MatchAny:
		return fmt.Errorf("match is %q, want sequence, set or any", r.Match)
	case exact && (r.PCR == 1 || r.PCR == 5):
		return errors.New("it holds boot variables and partition tables, which change; use match any, with a reason")
	case r.Match == MatchAny && (r.Reason == "" || len(r.Events) > 0):
		return errors.New("match any needs a reason and no events")
	case r.Match == MatchAny && slices.Contains([]int{0, 2, 4, 7}, r.PCR):
		return errors.New("it cannot be ignored: it says which code ran")
	case exact && len(r.Events) == 0:
		return errors.New("no events; leave the rule out if the PCR has none")
	}
	loaders := 0
	for _, e := range r.Events {
		if e.Loader {
			loaders++
			if len(e.Digests) > 0 {
				return errors.New("the loader's digests are in its own reference")
			}
			continue
		}
		if len(e.Digests) == 0 {
			return errors.New("an event without digests")
		}
		for _, d := range e.Digests {
			if err := d.check(); err != nil {
				return err
			}
		}
	}
	if want := r.PCR == 4; (loaders == 1) != want || loaders > 1 {
		return errors.New("the loader stands in PCR 4, once, and nowhere else")
	}
	return nil
}

// RecordProfile makes a profile from the firmware log of a reference machine that was started with a dummy loader,
// whose digests it replaces by the placeholder. What it makes is a proposal: a person reads it, shortens it, signs it.
func RecordProfile(name string, root RootOfTrust, log *fwlog.Log, dummy *Loader) (*Profile, error) {
	p := &Profile{Header: Header{Version, KindProfile, name}, RootOfTrust: root}
	bank, ok := commonBank(log.Banks, dummy)
	if !ok {
		return nil, fmt.Errorf("record profile %s: the log and the dummy loader's reference have no bank in common", name)
	}
	for index := range 8 {
		events := eventsOf(log.Events, index)
		if len(events) == 0 {
			continue
		}
		if e := stranger(bank, events, dummy); e != nil {
			return nil, fmt.Errorf("record profile %s: event %d in PCR %d is a program that ran next to the loader (%x): a shell or "+
				"another boot loader could change ours; remove its boot option, or review it and add its digest by hand",
				name, e.Num, index, e.Digests[bank])
		}
		rule := PCRRule{PCR: index, Match: MatchSequence}
		switch index {
		case 1:
			rule.Match, rule.Reason = MatchAny, "boot variables and tables of the platform differ between machines"
		case 5:
			rule.Match, rule.Reason = MatchAny, "partition tables and boot attempts differ between machines"
		case 4:
			rule.Match = MatchSet // firmware may try other boot options first
		}
		if rule.Match != MatchAny {
			rule.Events = profileEvents(bank, rule.Match, events, dummy)
		}
		p.Rules = append(p.Rules, rule)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("record profile %s: %w", name, err)
	}
	return p, nil
}

// stranger finds a program in PCR 4 that is not of the loader. The rule for PCR 4 is a set, so a machine could always
// run what is in it.
func stranger(bank tpm2.TPMAlgID, events []fwlog.Event, dummy *Loader) *fwlog.Event {
	for i, e := range events {
		program := e.Type == fwlog.EventEFIBootServicesApp || e.Type == fwlog.EventEFIBootServicesDriver
		if e.PCR == loaderPCR && program && !slices.ContainsFunc(dummy.PCR4, func(d Digests) bool { return d.is(bank, e) }) {
			return &events[i]
		}
	}
	return nil
}

// commonBank is a bank in which the loader can be recognised.
func commonBank(banks []tpm2.TPMAlgID, l *Loader) (tpm2.TPMAlgID, bool) {
	for _, bank := range banks {
		if len(l.PCR4) > 0 && l.PCR4[0][pcr.BankName(bank)] != "" {
			return bank, true
		}
	}
	return 0, false
}

// profileEvents converts the events of one PCR; a set needs none twice.
func profileEvents(bank tpm2.TPMAlgID, match Match, events []fwlog.Event, dummy *Loader) []ProfileEvent {
	var out []ProfileEvent
	loader := false
	for _, e := range events {
		if e.PCR == 4 && slices.ContainsFunc(dummy.PCR4, func(d Digests) bool { return d.is(bank, e) }) {
			if !loader {
				out, loader = append(out, ProfileEvent{Event: "the loader", Loader: true}), true
			}
			continue
		}
		if match == MatchSet && slices.ContainsFunc(out, func(p ProfileEvent) bool { return p.allows(bank, e) }) {
			continue
		}
		out = append(out, ProfileEvent{Event: e.Type.String(), Digests: []Digests{DigestsOf(e.Digests)}})
	}
	return out
}

// eventsOf are the events that extended a PCR, in order.
func eventsOf(events []fwlog.Event, index int) []fwlog.Event {
	var out []fwlog.Event
	for _, e := range events {
		if e.PCR == index && e.Extends() {
			out = append(out, e)
		}
	}
	return out
}

// is compares in one bank: the one that was quoted, since nothing proves the digests of the others.
func (d Digests) is(bank tpm2.TPMAlgID, e fwlog.Event) bool {
	want := d[pcr.BankName(bank)]
	return want != "" && want == hex.EncodeToString(e.Digests[bank])
}

// allows tells whether an event is this one.
func (p ProfileEvent) allows(bank tpm2.TPMAlgID, e fwlog.Event) bool {
	return slices.ContainsFunc(p.Digests, func(d Digests) bool { return d.is(bank, e) })
}
