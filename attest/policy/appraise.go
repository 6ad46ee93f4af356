package policy

import (
	"fmt"
	"math"
	"slices"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Set is the appraisal policy of a site. It is read only while it is used.
type Set struct {
	Images   []*Image
	Loaders  []*Loader
	Profiles []*Profile
	Rules    *Rules // without rules everything is denied
}

// Add adds a document; later rules replace earlier ones.
func (s *Set) Add(d Document) {
	switch d := d.(type) {
	case *Image:
		s.Images = append(s.Images, d)
	case *Loader:
		s.Loaders = append(s.Loaders, d)
	case *Profile:
		s.Profiles = append(s.Profiles, d)
	case *Rules:
		s.Rules = d
	}
}

// Device is what a site has decided about one device.
type Device struct {
	Profiles           []string // names of the profiles it may match; empty means any of the set
	Images             []string // names of the images it may run; empty means any of the set
	RequireEndorsement bool     // a TPM maker's certificate must vouch for the EK
	// AllowUnmeasured accepts PCR 0-7 all zero and no firmware log, for a board whose firmware has no TPM driver. What
	// such a device says of itself is worth nothing but its EK.
	AllowUnmeasured bool
}

// Appraisal is the outcome: without reasons the policy agrees.
type Appraisal struct {
	Image   *Image   // what runs; nil if unknown
	Loader  *Loader  // nil if unknown
	Profile *Profile // nil if unknown, or unmeasured
	Reasons []wire.Reason

	Proven   History // what the evidence shows, to be remembered when the boot is acknowledged
	WentBack string  // in what it is older than the device's history; empty if in nothing. No reason to deny
}

func (a *Appraisal) deny(r wire.Reason) { a.Reasons = append(a.Reasons, r) }

// Appraise compares facts with the policy, and with what the device has proven before: the whole verdict but for what
// only the server knows (its state, a challenge used twice). It collects one reason from each part, so that one denial
// tells everything.
func (s *Set) Appraise(v *verify.Verified, d Device, before History) *Appraisal {
	a := &Appraisal{}
	s.appraiseDocuments(a, v, d, before)
	a.Proven = History{Bank: v.PCRs.Bank, Floor: floorOf(v)}
	if a.Image != nil {
		a.Proven.ImageVersion = int64(min(a.Image.ImageVersion, math.MaxInt64))
	}
	if a.Profile != nil {
		a.Proven.RootOfTrust = a.Profile.RootOfTrust.Strength()
	}
	appraiseHistory(a, d, before)
	return a
}

// appraiseDocuments compares facts with the documents.
func (s *Set) appraiseDocuments(a *Appraisal, v *verify.Verified, d Device, before History) {
	if s.Rules == nil {
		a.deny(wire.Reason{Code: wire.CodePolicy, Detail: "this site has no rules document; add one with sealboot policy"})
		return
	}
	if bank := pcr.BankName(v.PCRs.Bank); !s.Rules.acceptsBank(bank) {
		a.deny(wire.Reason{Code: wire.CodePolicy, Found: bank, Detail: "the rules accept no evidence in this PCR bank; activate SHA-256 in the " +
			"firmware's setup, or list the bank in the rules if the firmware of every device extends it"})
	}
	if d.RequireEndorsement && v.Endorsement != nil {
		a.deny(wire.Reason{Code: wire.CodeEK, Detail: v.Endorsement.Error()})
	}
	if unmeasured(v) {
		if !d.AllowUnmeasured {
			a.deny(wire.Reason{Code: wire.CodeUnmeasured, PCR: wire.At(0), Found: "PCR 0-7 all zero",
				Detail: "no firmware measured the loader: enable the TPM in the firmware's setup, or flash firmware that measures"})
		}
	} else {
		s.appraiseLoader(a, v)
		s.appraisePlatform(a, v, d)
	}
	s.appraiseImage(a, v, d, before)
	s.appraiseAuthority(a, v)
}

// unmeasured tells whether nothing was measured before the loader.
func unmeasured(v *verify.Verified) bool {
	zero := string(pcr.Zero(v.PCRs.Bank))
	for i, index := range v.PCRs.Index {
		if index <= 7 && string(v.PCRs.Values[i]) != zero {
			return false
		}
	}
	return true
}

// recordsOf are the loader's records in one PCR.
func recordsOf(v *verify.Verified, index int) []event.Record {
	var out []event.Record
	for _, e := range v.Loader {
		if e.PCR == index {
			out = append(out, e.Record)
		}
	}
	return out
}

// appraiseImage compares PCR 12 with the images.
func (s *Set) appraiseImage(a *Appraisal, v *verify.Verified, d Device, before History) {
	found := recordsOf(v, v.ImagePCR)
	if n := len(found); n > 0 && found[n-1].Type == event.TypeCap && v.Device.Phase == wire.PhaseRenew {
		found = found[:n-1]
	}
	found = s.dropUnverified(a, v, found)
	for _, image := range s.Images {
		if slices.EqualFunc(image.Records, found, sameRecord) {
			a.Image = image
			break
		}
	}
	if a.Image == nil {
		a.deny(s.imageReason(v, found))
		return
	}
	if len(d.Images) > 0 && !slices.Contains(d.Images, a.Image.Name) {
		a.deny(wire.Reason{Code: wire.CodeImage, PCR: wire.At(v.ImagePCR), Found: a.Image.Name,
			Detail: "the image is known, but not for this device"})
	}
	if healthy := uint64(max(before.HealthyVersion, 0)); a.Image.ImageVersion < healthy {
		a.deny(wire.Reason{Code: wire.CodeRollback, PCR: wire.At(v.ImagePCR), Event: a.Image.Name,
			Expected: fmt.Sprintf("version %d or newer", healthy), Found: fmt.Sprintf("version %d", a.Image.ImageVersion)})
	}
}

// dropUnverified takes out the record that a disk is not verified again, if that is allowed.
func (s *Set) dropUnverified(a *Appraisal, v *verify.Verified, found []event.Record) []event.Record {
	i := slices.IndexFunc(found, func(r event.Record) bool { return r.Type == event.TypeDiskUnverified })
	if i < 0 {
		return found
	}
	if !s.Rules.AllowUnverifiedDisk {
		a.deny(wire.Reason{Code: wire.CodeUnverified, PCR: wire.At(v.ImagePCR), Event: verify.Describe(found[i]),
			Detail: "the disk is not verified when it is booted again; build it with dm-verity"})
	}
	return slices.Delete(slices.Clone(found), i, i+1)
}

// appraiseAuthority compares PCR 13 with the rules, and with what the loader's reference says.
func (s *Set) appraiseAuthority(a *Appraisal, v *verify.Verified) {
	found := recordsOf(v, v.AuthorityPCR)
	last := -1
	for _, r := range found {
		rank := rankOf(r.Type)
		if rank >= 0 && (rank < last || rank == last && !mayRepeat(r.Type)) {
			a.deny(wire.Reason{Code: wire.CodeAuthority, PCR: wire.At(v.AuthorityPCR), Event: verify.Describe(r),
				Detail: "the records are not in the order in which a loader measures them"})
			return
		}
		last = rank
		if !slices.ContainsFunc(s.Rules.Authority, func(rule RecordRule) bool { return rule.matches(r) }) {
			a.deny(s.authorityReason(v, r))
			return
		}
		if want, got := a.Loader.expects(r); want != got {
			a.deny(wire.Reason{Code: wire.CodeAuthority, PCR: wire.At(v.AuthorityPCR), Event: verify.Describe(r),
				Expected: want, Found: got, Detail: "it is not the one of loader " + a.Loader.Name})
			return
		}
	}
	for _, rule := range s.Rules.Authority {
		if rule.Required && !slices.ContainsFunc(found, rule.matches) {
			a.deny(wire.Reason{Code: wire.CodeAuthority, PCR: wire.At(v.AuthorityPCR), Event: string(rule.Type),
				Expected: rule.describe(), Found: "nothing"})
		}
	}
}

// authorityReason says which rule the record came closest to: one of its type.
func (s *Set) authorityReason(v *verify.Verified, r event.Record) wire.Reason {
	reason := wire.Reason{Code: wire.CodeAuthority, PCR: wire.At(v.AuthorityPCR), Event: verify.Describe(r), Found: content(r)}
	for _, rule := range s.Rules.Authority {
		if rule.Type == r.Type {
			reason.Expected = rule.describe()
			return reason
		}
	}
	reason.Expected = "no such record"
	return reason
}

// expects compares a record of PCR 13 with what the loader's reference knows of it; other records expect nothing.
func (l *Loader) expects(r event.Record) (want, got string) {
	switch {
	case l == nil:
		return "", ""
	case r.Type == event.TypeSiteConfig:
		return l.SiteConfig, r.SHA256
	case r.Type == event.TypeReleaseKey:
		return l.ReleaseKey, r.Detail["name"]
	}
	return "", ""
}
