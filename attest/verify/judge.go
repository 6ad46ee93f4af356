package verify

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/fwlog"
)

// Verified are the facts that evidence has proven, except that AK and EK share a TPM.
type Verified struct {
	Request    *wire.Request
	Device     *wire.Device // as the device put it; keys and phase are proven, Loader and Banks are claims
	Transcript [32]byte

	EK        *keys.Public
	AKName    []byte
	AgentName []byte
	AgentKey  *ecdsa.PublicKey
	// Endorsement is nil if a TPM maker's certificate vouches for the EK; else it says why not.
	Endorsement error

	PCRs            keys.PCRs
	ImagePCR        int
	AuthorityPCR    int
	Firmware        []fwlog.Event // explain the PCRs of the platform firmware; empty if it keeps no log
	Loader          []cel.Entry   // explain ImagePCR and AuthorityPCR
	Clock           tpm2.TPMSClockInfo
	FirmwareVersion uint64 // of the TPM

	agentSelection []int
}

// PCR returns a verified value.
func (v *Verified) PCR(index int) ([]byte, bool) {
	i := slices.Index(v.PCRs.Index, index)
	if i < 0 {
		return nil, false
	}
	return v.PCRs.Values[i], true
}

// Verdict is the judgement over one M3. The zero value denies.
type Verdict struct {
	// Claimed is what the device said of itself, or nil. Only for the audit log when the verdict is a denial.
	Claimed *wire.Device
	// Claim is the challenge's nonce, the key under which it may be answered once; nil if the cookie is not ours.
	Claim *[32]byte
	// Expires is when the challenge ends, and with it the need to remember the claim.
	Expires time.Time
	// Verified is nil unless every check but policy was passed.
	Verified *Verified
	// Reasons say why evidence was denied.
	Reasons []wire.Reason

	allowed bool
}

// Allowed tells whether everything was checked and found good.
func (v *Verdict) Allowed() bool {
	return v != nil && v.allowed && v.Verified != nil && len(v.Reasons) == 0
}

// Deny turns a verdict into a denial, for what the server knows and this package does not.
func (v *Verdict) Deny(r wire.Reason) {
	v.allowed = false
	v.Reasons = append(v.Reasons, r)
}

// Appraiser compares facts with the appraisal policy. No reasons means that the policy agrees. It is pure: what is known
// of the device is loaded before.
type Appraiser func(*Verified) []wire.Reason

// Judge is Verify, and Appraise if the evidence holds.
func (s *Site) Judge(now time.Time, m3 []byte, appraise Appraiser) *Verdict {
	v := s.Verify(now, m3)
	if v.Verified != nil {
		v.Appraise(appraise)
	}
	return v
}

// Verify makes every check of M3 but policy. The verdict denies: with reasons, if a check failed; else Verified has
// what was proven, for Appraise. It never panics and never returns nil.
func (s *Site) Verify(now time.Time, m3 []byte) (v *Verdict) {
	v = &Verdict{}
	defer v.guard()
	facts, err := s.facts(now, m3, v)
	if err != nil {
		v.Deny(reasonOf(err))
		return v
	}
	v.Verified = facts
	return v
}

// Appraise has the policy judge what was verified; once. Only a verdict without reasons then allows. Without
// an appraiser it denies.
func (v *Verdict) Appraise(appraise Appraiser) {
	defer v.guard()
	switch {
	case v.Verified == nil:
		v.Deny(wire.Reason{Code: wire.CodeMalformed, Detail: "nothing was verified"})
	case appraise == nil:
		v.Deny(wire.Reason{Code: wire.CodePolicy, Detail: "no appraisal policy"})
	default:
		v.Reasons = append(v.Reasons, appraise(v.Verified)...)
		v.allowed = len(v.Reasons) == 0
	}
}

// guard makes a denial of a panic. What was verified until then counts for nothing.
func (v *Verdict) guard() {
	if p := recover(); p != nil {
		*v = Verdict{Claimed: v.Claimed, Claim: v.Claim, Expires: v.Expires}
		v.Deny(wire.Reason{Code: wire.CodeMalformed, Detail: "the evidence could not be parsed"})
	}
}

func reasonOf(err error) wire.Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return wire.Reason{Code: wire.CodeMalformed, Detail: err.Error()}
}

// facts makes every check but policy, in the order that the package promises.
func (s *Site) facts(now time.Time, m3 []byte, v *Verdict) (*Verified, error) {
	var e wire.Evidence
	if err := wire.Unmarshal(m3, &e); err != nil {
		return nil, refuse(wire.CodeMalformed, "%v", err)
	}
	request, device, err := wire.ParseRequest(e.M1)
	if err != nil {
		return nil, refuse(wire.CodeMalformed, "M1: %v", err)
	}
	v.Claimed = device
	asked, err := s.challenged(now, &e, device, v)
	if err != nil {
		return nil, err
	}
	t := wire.Transcript(e.M1, e.M2)
	quote, err := parseQuote(e.Quote, t, *asked)
	if err != nil {
		return nil, err
	}
	k, err := s.deviceKeys(device)
	if err != nil {
		return nil, err
	}
	if err := checkSignature(wire.CodeSignature, k.ak.Key, e.Quote, e.QuoteSignature); err != nil {
		return nil, err
	}
	if err := checkValues(quote.digest, asked, e.PCRValues); err != nil {
		return nil, err
	}
	if err := checkCertify(&e, k, t); err != nil {
		return nil, err
	}
	l, err := s.replay(&e, *asked)
	if err != nil {
		return nil, err
	}
	if err := s.checkPhase(device.Phase, l.loader); err != nil {
		return nil, err
	}
	endorsement := s.endorsement(device, k.ek, now)
	if errors.Is(endorsement, ErrOtherKey) {
		return nil, refuse(wire.CodeEK, "%v", endorsement)
	}
	return &Verified{
		Request: request, Device: device, Transcript: t,
		EK: k.ek, AKName: k.ak.Name, AgentName: k.agent.Name, AgentKey: k.agentKey, Endorsement: endorsement,
		PCRs: *asked, ImagePCR: s.imagePCR(), AuthorityPCR: s.authPCR(), Firmware: l.firmware, Loader: l.loader,
		Clock: quote.clock, FirmwareVersion: quote.firmware, agentSelection: s.agentSelection(),
	}, nil
}

// challenged checks that M2 is our challenge for this M1, and returns what it asked for. What M2 says counts only as
// far as the cookie says it too.
func (s *Site) challenged(now time.Time, e *wire.Evidence, d *wire.Device, v *Verdict) (*keys.PCRs, error) {
	if d.Site != s.Name {
		return nil, refuse(wire.CodeCookie, "request for site %q at site %q", wire.Clean(d.Site), s.Name)
	}
	var m2 wire.Challenge
	if err := wire.Payload(e.M2, &m2); err != nil {
		return nil, refuse(wire.CodeMalformed, "M2: %v", err)
	}
	cookie, err := s.CookieKey.Open(s.Name, m2.Cookie, now)
	if errors.Is(err, wire.ErrExpired) {
		return nil, refuse(wire.CodeExpired, "%v", err)
	}
	if err != nil {
		return nil, refuse(wire.CodeCookie, "%v", err)
	}
	v.Claim, v.Expires = &cookie.Nonce, cookie.Expires
	if cookie.Request != wire.HashMessage(e.M1) {
		return nil, refuse(wire.CodeCookie, "the challenge was made for another request")
	}
	if cookie.Nonce != [32]byte(m2.Nonce) || cookie.Bank != m2.Bank || !slices.Equal(cookie.PCRs, m2.PCRs) {
		return nil, refuse(wire.CodeCookie, "M2 is not as it was sent")
	}
	bank, err := bankOf(cookie.Bank)
	if err != nil {
		return nil, fmt.Errorf("cookie: %w", err)
	}
	return &keys.PCRs{Bank: bank, Index: cookie.PCRs}, nil
}
