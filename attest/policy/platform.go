package policy

import (
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
)

// loaderPCR is where firmware measures what it starts, stubPCR where systemd-stub measures what it is made of.
const (
	loaderPCR = 4
	stubPCR   = 11
)

// appraiseLoader finds the loader whose digests PCR 4 holds, and compares PCR 11 with its reference.
func (s *Set) appraiseLoader(a *Appraisal, v *verify.Verified) {
	found := eventsOf(v.Firmware, loaderPCR)
	for _, l := range s.Loaders {
		if _, ok := placeOf(l.PCR4, found, v.PCRs.Bank); ok && l.compareStub(v) == nil {
			a.Loader = l
			return
		}
	}
	a.deny(s.loaderReason(v, found))
}

// compareStub compares PCR 11, unless it was not quoted because an OS goes on extending it.
func (l *Loader) compareStub(v *verify.Verified) *wire.Reason {
	if _, quoted := v.PCR(stubPCR); !quoted {
		return nil
	}
	_, r := compareSequence(stubPCR, wire.CodeLoader, v, references(l.PCR11), eventsOf(v.Firmware, stubPCR))
	return r
}

// placeOf finds the one place where the references stand in order among the events.
func placeOf(want []Digests, found []fwlog.Event, bank tpm2.TPMAlgID) (int, bool) {
	place, n := 0, 0
	for i := 0; i+len(want) <= len(found); i++ {
		same := true
		for j := range want {
			same = same && want[j].is(bank, found[i+j])
		}
		if same {
			place, n = i, n+1
		}
	}
	return place, n == 1 && len(want) > 0
}

// references are events that must have exactly these digests.
func references(want []Digests) []ProfileEvent {
	var out []ProfileEvent
	for _, d := range want {
		out = append(out, ProfileEvent{Digests: []Digests{d}})
	}
	return out
}

// appraisePlatform compares PCR 0-7, as far as they were quoted, with the profiles.
func (s *Set) appraisePlatform(a *Appraisal, v *verify.Verified, d Device) {
	var closest *wire.Reason
	most := -1
	for _, p := range s.Profiles {
		if len(d.Profiles) > 0 && !slices.Contains(d.Profiles, p.Name) {
			continue
		}
		n, reason := p.compare(v, a.Loader)
		if reason == nil {
			// A renewal quotes too few PCRs to tell similar platforms apart: it may come from any of them.
			if a.Profile == nil || v.Device.Phase == wire.PhaseRenew && p.RootOfTrust.Strength() > a.Profile.RootOfTrust.Strength() {
				a.Profile = p
			}
			continue
		}
		if n > most {
			reason.Detail = fmt.Sprintf("%s (profile %s)", reason.Detail, p.Name)
			closest, most = reason, n
		}
	}
	switch {
	case a.Profile != nil:
		if !slices.Contains(s.Rules.RootsOfTrust, a.Profile.RootOfTrust) {
			a.deny(wire.Reason{Code: wire.CodeFirmware, Event: a.Profile.Name, Found: string(a.Profile.RootOfTrust),
				Expected: fmt.Sprint(s.Rules.RootsOfTrust), Detail: "this site does not accept such a root of trust"})
		}
	case closest != nil:
		a.deny(*closest)
	default:
		a.deny(wire.Reason{Code: wire.CodeFirmware, Detail: "no firmware profile for this device; record one with sealboot policy"})
	}
}

// compare finds the first firmware event that the profile does not allow, and counts those that it does before it.
func (p *Profile) compare(v *verify.Verified, l *Loader) (allowed int, _ *wire.Reason) {
	for index := range 8 {
		if _, quoted := v.PCR(index); !quoted {
			continue
		}
		found := eventsOf(v.Firmware, index)
		i := slices.IndexFunc(p.Rules, func(r PCRRule) bool { return r.PCR == index })
		if i < 0 {
			if len(found) > 0 {
				return allowed, &wire.Reason{Code: wire.CodeFirmware, PCR: wire.At(index), Event: verify.DescribeFirmware(found[0]),
					Expected: "nothing", Found: digestIn(found[0], v.PCRs.Bank), Detail: "no rule for this PCR"}
			}
			continue
		}
		n, r := p.Rules[i].compare(v, l, found)
		if allowed += n; r != nil {
			return allowed, r
		}
	}
	return allowed, nil
}

func (r *PCRRule) compare(v *verify.Verified, l *Loader, found []fwlog.Event) (allowed int, _ *wire.Reason) {
	if r.Match == MatchAny {
		return len(found), nil
	}
	if r.PCR == loaderPCR && l == nil {
		return 0, nil // an unknown loader is a reason of its own
	}
	if r.Match == MatchSequence {
		return compareSequence(r.PCR, wire.CodeFirmware, v, r.expand(l), found)
	}
	return r.compareSet(v, l, found)
}

// expand puts the loader's references in place of its placeholder.
func (r *PCRRule) expand(l *Loader) []ProfileEvent {
	var out []ProfileEvent
	for _, e := range r.Events {
		if e.Loader {
			out = append(out, references(l.PCR4)...)
			continue
		}
		out = append(out, e)
	}
	return out
}

// compareSequence wants exactly these events in this order.
func compareSequence(index int, code wire.Code, v *verify.Verified, want []ProfileEvent, found []fwlog.Event) (same int, _ *wire.Reason) {
	for i := range max(len(want), len(found)) {
		r := &wire.Reason{Code: code, PCR: wire.At(index), Expected: "nothing", Found: "nothing", Detail: "differs"}
		if i < len(want) {
			r.Event, r.Expected = want[i].Event, want[i].describe(v.PCRs.Bank)
		}
		if i < len(found) {
			r.Event, r.Found = verify.DescribeFirmware(found[i]), digestIn(found[i], v.PCRs.Bank)
		}
		if i < len(want) && i < len(found) && want[i].allows(v.PCRs.Bank, found[i]) {
			continue
		}
		if r.Event == "" {
			r.Event = fmt.Sprintf("event %d", i)
		}
		return i, r
	}
	return len(found), nil
}

// compareSet wants no other events than these, and the loader once.
func (r *PCRRule) compareSet(v *verify.Verified, l *Loader, found []fwlog.Event) (allowed int, _ *wire.Reason) {
	place, size := 0, 0
	if r.PCR == loaderPCR {
		place, _ = placeOf(l.PCR4, found, v.PCRs.Bank) // appraiseLoader has found it there
		size = len(l.PCR4)
	}
	for i, e := range found {
		if i >= place && i < place+size {
			continue
		}
		if !slices.ContainsFunc(r.Events, func(p ProfileEvent) bool { return p.allows(v.PCRs.Bank, e) }) {
			return i, &wire.Reason{Code: wire.CodeFirmware, PCR: wire.At(r.PCR), Event: verify.DescribeFirmware(e),
				Expected: "one of the profile's events", Found: digestIn(e, v.PCRs.Bank), Detail: "not allowed"}
		}
	}
	return len(found), nil
}

// describe names an allowed digest in one bank, and how many there are.
func (p ProfileEvent) describe(bank tpm2.TPMAlgID) string {
	text, n := "", 0
	for _, d := range p.Digests {
		if s := d[pcr.BankName(bank)]; s != "" {
			text, n = pcr.BankName(bank)+":"+s, n+1
		}
	}
	switch n {
	case 0:
		return "no digest for bank " + pcr.BankName(bank)
	case 1:
		return text
	}
	return fmt.Sprintf("%s or %d others", text, n-1)
}
