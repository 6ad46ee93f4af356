package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// challenge answers M1 with M2. Only devices that are enrolled get one, so that a stranger can neither
// make us judge nor fill the audit log.
func (s *Server) challenge(ctx context.Context, r *http.Request, m1 []byte) ([]byte, error) {
	m2, claimed, err := s.verifier.Challenge(s.Now(), m1, s.Site.ServerKey)
	var refused *verify.Refusal
	if errors.As(err, &refused) {
		return nil, &failure{status: http.StatusForbidden, code: refused.Code, reasons: []wire.Reason{refused.Reason}, cause: err}
	}
	if err != nil {
		return nil, err
	}
	d, err := s.Store.Device(ctx, claimed.ID())
	if errors.Is(err, store.ErrNotFound) {
		return nil, s.meet(ctx, r, m1, claimed)
	}
	if err != nil {
		return nil, err
	}
	if reason := notAdmitted(d); reason != "" {
		st := store.Status{Time: s.Now(), Phase: string(claimed.Phase), Verdict: "deny", Stage: string(wire.CodeDevice), Reason: reason}
		if err := s.attempt(ctx, refusals, d, st, r.RemoteAddr); err != nil {
			return nil, err
		}
		return nil, refuse(http.StatusForbidden, wire.CodeDevice, reason, fmt.Errorf("device %s is %s", d.ID, d.State))
	}
	return m2, nil
}

func notAdmitted(d store.Device) string {
	switch d.State {
	case store.Enrolled:
		return ""
	case store.Pending:
		return "this device waits for an operator: sealboot device allow " + d.ID
	default:
		return "this device is quarantined"
	}
}

// endorsed fails if this site trusts TPM makers and none vouches for the device's EK. Anyone with a token can make keys
// in software, and would use it up with them.
func (s *Server) endorsed(d *wire.Device) error {
	if s.Site.Endorsement != site.EndorsedByCertificate {
		return nil
	}
	return s.verifier.Endorsed(d, s.Now())
}

// meet deals with a device that no one enrolled: with a join token it is put on the waiting list.
func (s *Server) meet(ctx context.Context, r *http.Request, m1 []byte, claimed *wire.Device) error {
	ek := claimed.ID()
	unknown := refuse(http.StatusForbidden, wire.CodeDevice, "this device is not enrolled: sealboot enrol --hash "+ek,
		fmt.Errorf("device %s is not enrolled", ek))
	request, _, err := wire.ParseRequest(m1)
	if err != nil || request.Join == nil {
		s.strangers.add(stranger{s.Now(), ek, r.RemoteAddr, "not enrolled"})
		return unknown
	}
	tokens, err := s.Store.Tokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if !request.Joins(t.Secret) {
			continue
		}
		if err := s.endorsed(claimed); err != nil {
			s.strangers.add(stranger{s.Now(), ek, r.RemoteAddr, "join: " + err.Error()})
			return refuse(http.StatusForbidden, wire.CodeEK, wire.Clean(err.Error())+"; an operator can vouch for this device: sealboot enrol --hash-suffices --hash "+ek,
				fmt.Errorf("device %s would join with token %s: %w", ek, t.Name, err))
		}
		// No one had its TPM at hand: it writes its rollback floor in its first boot.
		d := store.Device{ID: ek, EKs: []string{ek}, RepairFloor: new(int64)}
		err := s.Store.Join(ctx, t.Name, d, store.Event{Kind: "enrol", Actor: "token " + t.Name, Detail: map[string]string{"remote": r.RemoteAddr}})
		switch {
		case errors.Is(err, store.ErrNotFound): // somebody else took the last use
			continue
		case err != nil && !errors.Is(err, store.ErrExists):
			return err
		}
		d.State = store.Pending
		return refuse(http.StatusForbidden, wire.CodeDevice, notAdmitted(d), fmt.Errorf("device %s joined with token %s", ek, t.Name))
	}
	s.strangers.add(stranger{s.Now(), ek, r.RemoteAddr, "join token not valid"})
	return unknown
}
