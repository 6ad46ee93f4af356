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
	var reason *wire.Reason
	for _, l := range s.Loaders {
		if _, ok := placeOf(l.PCR4, found, v.PCRs.Bank); !ok {
			continue
		}
		if r := l.compareStub(v); r != nil {
			r.Detail = "loader " + l.Name
			reason = r
			continue
		}
		a.Loader = l
		return
	}
	if reason == nil {
		reason = s.loaderReason(found, v.PCRs.Bank)
	}
	a.deny(*reason)
}

// compareStub compares PCR 11, unless it was not quoted because an OS goes on extending it.
func (l *Loader) compareStub(v *verify.Verified) *wire.Reason {
	if _, quoted := v.PCR(stubPCR); !quoted {
		return nil
	}
	return compareSequence(stubPCR, wire.CodeLoader, v, references(l.PCR11), eventsOf(v.Firmware, stubPCR))
}

// loaderReason names the application that firmware started instead of a known loader.
func (s *Set) loaderReason(found []fwlog.Event, bank tpm2.TPMAlgID) *wire.Reason {
	r := &wire.Reason{Code: wire.CodeLoader, PCR: wire.At(loaderPCR), Found: "nothing",
		Detail: "no known loader was started; add its reference with sealboot predict and sealboot policy"}
	for _, e := range found {
		if e.Type == fwlog.EventEFIBootServicesApp {
			r.Event, r.Found = verify.DescribeFirmware(e), hexOf(e.Digests[bank])
		}
	}
	if len(s.Loaders) > 0 {
		newest := s.Loaders[len(s.Loaders)-1]
		r.Expected = newest.PCR4[0][pcr.BankName(bank)]
		r.Detail = "the loader was changed, or is not registered; the newest known is " + newest.Name
	}
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
	var first *wire.Reason
	for _, p := range s.Profiles {
		if len(d.Profiles) > 0 && !slices.Contains(d.Profiles, p.Name) {
			continue
		}
		reason := p.compare(v, a.Loader)
		if reason == nil {
			a.Profile = p
			break
		}
		if first == nil {
			reason.Detail = fmt.Sprintf("profile %s: %s", p.Name, reason.Detail)
			first = reason
		}
	}
	switch {
	case a.Profile != nil:
		if !slices.Contains(s.Rules.RootsOfTrust, a.Profile.RootOfTrust) {
			a.deny(wire.Reason{Code: wire.CodeFirmware, Event: a.Profile.Name, Found: string(a.Profile.RootOfTrust),
				Expected: fmt.Sprint(s.Rules.RootsOfTrust), Detail: "this site does not accept such a root of trust"})
		}
	case first != nil:
		a.deny(*first)
	default:
		a.deny(wire.Reason{Code: wire.CodeFirmware, Detail: "no firmware profile for this device; record one with sealboot policy"})
	}
}

// compare finds the first firmware event that the profile does not allow.
func (p *Profile) compare(v *verify.Verified, l *Loader) *wire.Reason {
	for index := range 8 {
		if _, quoted := v.PCR(index); !quoted {
			continue
		}
		found := eventsOf(v.Firmware, index)
		i := slices.IndexFunc(p.Rules, func(r PCRRule) bool { return r.PCR == index })
		if i < 0 {
			if len(found) > 0 {
				return &wire.Reason{Code: wire.CodeFirmware, PCR: wire.At(index), Event: verify.DescribeFirmware(found[0]),
					Expected: "nothing", Found: hexOf(found[0].Digests[v.PCRs.Bank]), Detail: "the profile has no rule for this PCR"}
			}
			continue
		}
		if r := p.Rules[i].compare(v, l, found); r != nil {
			return r
		}
	}
	return nil
}

func (r *PCRRule) compare(v *verify.Verified, l *Loader, found []fwlog.Event) *wire.Reason {
	if r.Match == MatchAny {
		return nil
	}
	if r.PCR == loaderPCR && l == nil {
		return nil // an unknown loader is a reason of its own
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
func compareSequence(index int, code wire.Code, v *verify.Verified, want []ProfileEvent, found []fwlog.Event) *wire.Reason {
	for i := range max(len(want), len(found)) {
		r := &wire.Reason{Code: code, PCR: wire.At(index), Expected: "nothing", Found: "nothing"}
		if i < len(want) {
			r.Event, r.Expected = want[i].Event, want[i].describe(v.PCRs.Bank)
		}
		if i < len(found) {
			r.Event, r.Found = verify.DescribeFirmware(found[i]), hexOf(found[i].Digests[v.PCRs.Bank])
		}
		if i < len(want) && i < len(found) && want[i].allows(v.PCRs.Bank, found[i]) {
			continue
		}
		r.Detail = fmt.Sprintf("event %d of PCR %d differs", i, index)
		return r
	}
	return nil
}

// compareSet wants no other events than these, and the loader once.
func (r *PCRRule) compareSet(v *verify.Verified, l *Loader, found []fwlog.Event) *wire.Reason {
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
			return &wire.Reason{Code: wire.CodeFirmware, PCR: wire.At(r.PCR), Event: verify.DescribeFirmware(e),
				Expected: "one of the profile's events", Found: hexOf(e.Digests[v.PCRs.Bank]), Detail: "firmware measured something else"}
		}
	}
	return nil
}

// describe are the allowed digests in one bank.
func (p ProfileEvent) describe(bank tpm2.TPMAlgID) string {
	var out []string
	for _, d := range p.Digests {
		if s := d[pcr.BankName(bank)]; s != "" {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return "no digest for bank " + pcr.BankName(bank)
	}
	return fmt.Sprint(out)
}
