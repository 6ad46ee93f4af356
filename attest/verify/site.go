package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// Site is what a verifier knows of a site. It is read only and safe for concurrent use.
type Site struct {
	Name       string
	CookieKey  wire.CookieKey   // shared by all replicas
	ReleaseKey *ecdsa.PublicKey // in the templates of AK and agent key
	EKRoots    *x509.CertPool   // of TPM makers; nil means that no certificate is ever believed
	EKCAs      *x509.CertPool   // intermediates; may be nil
	Banks      []string         // PCR banks in order of preference; nil means sha256, sha384
	ImagePCR   int              // 0 means 12
	AuthPCR    int              // 0 means 13

	matchers atomic.Pointer[keys.Matchers]
}

// Refusal is the reason why a message is not answered. It is an error, and a [wire.Reason] for the audit log.
type Refusal struct{ wire.Reason }

func (r *Refusal) Error() string { return "refused: " + r.Reason.String() }

func refuse(code wire.Code, format string, args ...any) *Refusal {
	return &Refusal{wire.Reason{Code: code, Detail: fmt.Sprintf(format, args...)}}
}

func (s *Site) imagePCR() int {
	if s.ImagePCR == 0 {
		return event.PCRImage
	}
	return s.ImagePCR
}

func (s *Site) authPCR() int {
	if s.AuthPCR == 0 {
		return event.PCRAuthority
	}
	return s.AuthPCR
}

// selection is what a device has to quote: before the cap everything that says what started the loader and what it
// did; afterwards what the OS does not go on extending.
func (s *Site) selection(phase wire.Phase) []int {
	pcrs := []int{0, 1, 2, 3, 4, 5, 6, 7, 11, s.imagePCR(), s.authPCR()}
	if phase == wire.PhaseRenew {
		pcrs = s.agentSelection()
	}
	return sorted(pcrs)
}

// agentSelection is what the use of the agent key is bound to: never 10, 11 or 15, which a running OS extends.
func (s *Site) agentSelection() []int { return sorted([]int{0, 2, 4, 7, s.imagePCR(), s.authPCR()}) }

func sorted(pcrs []int) []int {
	slices.Sort(pcrs)
	return slices.Compact(pcrs)
}

func (s *Site) bank(active []string) (string, bool) {
	wanted := s.Banks
	if wanted == nil {
		wanted = []string{"sha256", "sha384"}
	}
	for _, b := range wanted {
		if slices.Contains(active, b) {
			return b, true
		}
	}
	return "", false
}

// Challenge answers M1 with M2. The error is a *[Refusal] if the request is at fault. Whether the device is known is
// for the caller to decide, before or after; nothing of the request is proven yet.
func (s *Site) Challenge(now time.Time, m1 []byte, server crypto.Signer) (m2 []byte, d *wire.Device, err error) {
	_, d, err = wire.ParseRequest(m1)
	if err != nil {
		return nil, nil, refuse(wire.CodeMalformed, "%v", err)
	}
	if d.Site != s.Name {
		return nil, nil, refuse(wire.CodeMalformed, "request for site %q at site %q", wire.Clean(d.Site), s.Name)
	}
	if _, err := s.deviceKeys(d); err != nil {
		return nil, d, err
	}
	bank, ok := s.bank(d.Banks)
	if !ok {
		return nil, d, refuse(wire.CodeSelection, "no acceptable PCR bank among %v; activate SHA-256 in the firmware's setup", d.Banks)
	}
	cookie := &wire.Cookie{
		Expires: now.Add(wire.CookieLife), Request: wire.HashMessage(m1), Bank: bank, PCRs: s.selection(d.Phase),
	}
	sealed, err := s.CookieKey.Seal(s.Name, cookie)
	if err != nil {
		return nil, d, fmt.Errorf("make challenge: %w", err)
	}
	m2, err = wire.Sign(server, wire.DomainChallenge, cookie.Request, &wire.Challenge{
		Version: wire.Version, Cookie: sealed, Nonce: cookie.Nonce[:], Bank: bank, PCRs: cookie.PCRs,
	})
	if err != nil {
		return nil, d, fmt.Errorf("make challenge: %w", err)
	}
	return m2, d, nil
}

// Endorsed tells whether a TPM maker's certificate vouches for the EK that M1 names, which [Site.Challenge] has accepted:
// nil, or why not. That the device has this EK is not proven by it: certificates are public.
func (s *Site) Endorsed(d *wire.Device, now time.Time) error {
	m, err := s.keyMatchers()
	if err != nil {
		return err
	}
	ek, err := keys.MatchAny(m.EK, d.EKPublic)
	if err != nil {
		return err
	}
	return s.endorsement(d, ek, now)
}

func (s *Site) endorsement(d *wire.Device, ek *keys.Public, now time.Time) error {
	_, err := EKCertificate(d.EKCertificate, ek.Key, s.EKRoots, s.EKCAs, now)
	return err
}

// deviceKeys are the keys of M1, parsed and found to have the right templates.
type deviceKeys struct {
	ek, ak, agent *keys.Public
	agentKey      *ecdsa.PublicKey
}

func (s *Site) deviceKeys(d *wire.Device) (*deviceKeys, error) {
	m, err := s.keyMatchers()
	if err != nil {
		return nil, err
	}
	var k deviceKeys
	if k.ek, err = match(m.EK, d.EKPublic, wire.CodeEK, "the EK was not made from a template of the TCG EK Credential Profile"); err != nil {
		return nil, err
	}
	if k.ak, err = match(m.AK, d.AKPublic, wire.CodeAK,
		"the AK has not the template of this site; was the loader built for another site or release key?"); err != nil {
		return nil, err
	}
	if k.agent, err = match(m.Agent, d.AgentPublic, wire.CodeAgentKey, "the agent key has not the template of this site"); err != nil {
		return nil, err
	}
	k.agentKey = k.agent.Key.(*ecdsa.PublicKey) // the template is of a P-256 key
	return &k, nil
}

func match(templates []*keys.Matcher, raw []byte, code wire.Code, other string) (*keys.Public, error) {
	p, err := keys.MatchAny(templates, raw)
	switch {
	case errors.Is(err, keys.ErrTemplate):
		return nil, refuse(code, "%s", other)
	case err != nil:
		return nil, refuse(code, "%v", err)
	}
	return p, nil
}

// keyMatchers are made at the first use, and again if the release key is another.
func (s *Site) keyMatchers() (*keys.Matchers, error) {
	if m := s.matchers.Load(); m != nil && m.Release == s.ReleaseKey {
		return m, nil
	}
	m, err := keys.NewMatchers(s.ReleaseKey)
	if err != nil {
		return nil, err
	}
	s.matchers.Store(m)
	return m, nil
}

// bankOf is the algorithm of a bank that a challenge named.
func bankOf(name string) (tpm2.TPMAlgID, error) {
	bank, err := pcr.ParseBank(name)
	if err != nil {
		return 0, refuse(wire.CodeSelection, "%v", err)
	}
	return bank, nil
}
