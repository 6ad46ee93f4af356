package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/result"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// waitForTurn is how long evidence waits while others are judged; then the device is asked to come back.
const waitForTurn = 10 * time.Second

// decision is one M3 on its way to M4.
type decision struct {
	id      string
	verdict *verify.Verdict
	found   *policy.Appraisal // never nil; empty if nothing was verified
	device  store.Device
	history policy.History // what the device has proven before
	answer  []byte         // M4
	ack     []byte         // what M5 must carry
	dropped count          // denials of the device that were not recorded before this one
}

// evidence answers M3 with M4. The order is: judge, make the answer in memory, then claim the challenge
// and write the audit record in one transaction, and only then answer.
func (s *Server) evidence(ctx context.Context, r *http.Request, m3 []byte) ([]byte, error) {
	d, err := s.judge(ctx, m3)
	if err != nil {
		return nil, err
	}
	if d.verdict.Claim == nil {
		return nil, denial(http.StatusForbidden, d)
	}
	if err := s.lookup(ctx, d, d.verdict.Claimed.ID()); err != nil {
		return nil, err
	}
	d.addRules()
	if err := s.throttle(d, r.RemoteAddr); err != nil {
		return nil, err
	}
	told := false
	defer func() {
		if !told && d.dropped.n > 0 { // a replay, say, is not recorded and tells nothing
			s.quiet.unrecorded.add(unrecorded{d.device.ID, denials}, d.dropped)
		}
	}()
	if d.verdict.Allowed() {
		if err := s.release(d); err != nil {
			return nil, err
		}
	}
	err = s.Store.Decide(ctx, s.record(d, r.RemoteAddr))
	if errors.Is(err, store.ErrClaimed) {
		return nil, refuse(http.StatusConflict, wire.CodeReplayed, "this challenge was answered before; ask for a new one", err)
	}
	if errors.Is(err, store.ErrNotEnrolled) {
		return nil, refuse(http.StatusForbidden, wire.CodeDevice, "this device was quarantined meanwhile", err)
	}
	if err != nil {
		return nil, err
	}
	told = true
	s.afterDecide()
	s.count(d)
	s.saveEvidence(d, m3)
	if !d.verdict.Allowed() {
		return nil, denial(http.StatusForbidden, d)
	}
	return d.answer, nil
}

// throttle ends what comes more often than is written down. A denial that is not recorded stays a denial: its challenge
// is not claimed, but nothing was made for it either.
func (s *Server) throttle(d *decision, remote string) error {
	if d.verdict.Allowed() {
		if !s.quiet.allow(releases, d.device, remote, s.Now()) {
			return refuse(http.StatusTooManyRequests, wire.CodeUnavailable, "", fmt.Errorf("device %s asks too often", d.device.ID))
		}
	} else if !s.quiet.allow(denials, d.device, remote, s.Now()) {
		s.count(d)
		d.id = ""
		return denial(http.StatusForbidden, d)
	}
	d.dropped = s.quiet.unrecorded.take(unrecorded{d.device.ID, denials})
	return nil
}

// judge waits for its turn and has the evidence verified and appraised.
func (s *Server) judge(ctx context.Context, m3 []byte) (*decision, error) {
	wait, cancel := context.WithTimeout(ctx, waitForTurn)
	defer cancel()
	select {
	case s.work <- struct{}{}:
		defer func() { <-s.work }()
	case <-wait.Done():
		s.metrics.busy.Inc()
		return nil, refuse(http.StatusServiceUnavailable, wire.CodeUnavailable, "", errors.New("too much evidence at once"))
	}
	appraiser, err := s.appraisers.get(ctx, s.Store)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	d := &decision{id: hex.EncodeToString(id), found: new(policy.Appraisal)}
	start := time.Now()
	d.verdict = s.verifier.Verify(s.Now(), m3)
	if v := d.verdict.Verified; v != nil {
		if err := s.lookup(ctx, d, v.Device.ID()); err != nil {
			return nil, err
		}
		d.verdict.Appraise(func(v *verify.Verified) []wire.Reason {
			d.found = appraiser.Appraise(v, s.rulesFor(d.device), d.history)
			return d.found.Reasons
		})
	}
	s.metrics.appraisal.Observe(time.Since(start).Seconds())
	return d, nil
}

// image is the name and version of what runs; empty if it is unknown.
func (d *decision) image() (name string, version int64) {
	if d.found.Image == nil {
		return "", 0
	}
	return d.found.Image.Name, d.found.Proven.ImageVersion
}

// lookup looks the device up, once for each decision.
func (s *Server) lookup(ctx context.Context, d *decision, ek string) (err error) {
	if d.device.ID != "" {
		return nil
	}
	if d.device, err = s.Store.Device(ctx, ek); errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusForbidden, wire.CodeDevice, "", err)
	} else if err != nil {
		return err
	}
	d.history, err = s.history(ctx, d.device.ID)
	return err
}

// addRules applies what is not a matter of policy: the device's state, and which keys it has proven.
func (d *decision) addRules() {
	if reason := notAdmitted(d.device); reason != "" {
		d.verdict.Deny(wire.Reason{Code: wire.CodeDevice, Detail: reason})
	}
	v := d.verdict.Verified
	if v == nil || v.Device.Phase != wire.PhaseRenew {
		return
	}
	// A renewal has no activation that would prove EK and AK to be in one TPM. An earlier boot did.
	if hex.EncodeToString(v.AKName) != d.device.AKName || hex.EncodeToString(v.AgentName) != d.device.AgentName {
		d.verdict.Deny(wire.Reason{Code: wire.CodeAK, Detail: "these keys were not proven by an acknowledged boot of this device; reboot it"})
	}
}

// release makes M4, in memory.
func (s *Server) release(d *decision) error {
	v := d.verdict.Verified
	cert, err := s.Site.CA.Agent(v.AgentKey, d.device.ID, d.id)
	if err != nil {
		return err
	}
	grant := verify.Grant{Decision: d.id, ReleaseKey: s.Site.ReleaseKey, ServerKey: s.Site.ServerKey, AgentCertificate: cert}
	if v.Device.Phase == wire.PhaseBoot {
		if grant.Secrets, err = s.secrets(d, cert); err != nil {
			return err
		}
		defer grant.Secrets.Wipe()
	}
	d.answer, d.ack, err = verify.NewRelease(d.verdict, grant)
	return err
}

func (s *Server) secrets(d *decision, cert []byte) (*wire.Secrets, error) {
	serverKey, err := wire.FormatKey(s.Site.ServerPublic())
	if err != nil {
		return nil, err
	}
	image, version := d.image()
	res, err := result.Sign(s.Site.ServerKey, result.Result{
		Issuer: s.Site.Name, Device: d.device.ID, Decision: d.id, IssuedAt: s.Now().Unix(), Tier: d.device.Tier,
		Image: image, Version: version, FirstBoot: d.device.MayFormat, URL: s.Site.URL, ServerKey: serverKey,
	})
	if err != nil {
		return nil, err
	}
	extra, err := s.Site.Secrets(d.device.ID)
	if err != nil {
		return nil, err
	}
	return &wire.Secrets{
		Version: wire.Version, SealKey: append([]byte(nil), s.Site.SealKey...), FirstBoot: d.device.MayFormat,
		AgentCertificate: cert, SiteCA: s.Site.CA.PEM(), AttestationResult: res, Extra: extra,
	}, nil
}

// record is what the store keeps of the decision.
func (s *Server) record(d *decision, remote string) store.Decision {
	image, version := d.image()
	status := store.Status{Time: s.Now(), Phase: string(d.verdict.Claimed.Phase), Image: image, Version: version,
		Loader: wire.Clean(d.verdict.Claimed.Loader)}
	event := store.Event{Phase: status.Phase, Detail: map[string]string{"remote": remote, "loader": status.Loader}}
	if image != "" {
		event.Detail["image"] = image
	}
	if c := d.dropped; c.n > 0 {
		event.Detail["unrecorded"] = fmt.Sprintf("%d denials since %s", c.n, c.since.UTC().Format(time.RFC3339))
	}
	out := store.Decision{
		Cookie: hex.EncodeToString(d.verdict.Claim[:]), ID: d.id, Device: d.device.ID, Expires: d.verdict.Expires,
		Allow: d.verdict.Allowed(),
	}
	if v := d.verdict.Verified; v != nil {
		event.Detail["transcript"] = hex.EncodeToString(v.Transcript[:])
		// For anyone who looks into an incident: which decisions were made in one boot.
		event.Detail["resets"], event.Detail["restarts"] = fmt.Sprint(v.Clock.ResetCount), fmt.Sprint(v.Clock.RestartCount)
	}
	if out.Allow {
		if status.Reason = d.found.WentBack; status.Reason != "" {
			event.Reason = status.Reason
		}
		if v := d.verdict.Verified; v.Device.Phase == wire.PhaseBoot {
			out.Ack = ackHash(d.ack)
			out.Effects = store.Effects{Status: status, Versions: d.found.Proven.Numbers(), Released: d.device.Orders}
			if from := network(remote); from.IsValid() {
				out.Effects.Status.Network = from.String()
			}
			out.Effects.Heard = int64(min(v.Device.Orders, uint64(d.device.Orders)))
			out.Effects.AKName, out.Effects.AgentName = hex.EncodeToString(v.AKName), hex.EncodeToString(v.AgentName)
		}
	} else {
		status.Stage, status.Reason = string(d.verdict.Reasons[0].Code), reasonText(d.verdict.Reasons)
		event.Stage, event.Reason = status.Stage, status.Reason
		// The text has digests cut; anyone who investigates needs the whole of the first.
		event.Detail["found"], event.Detail["expected"] = wire.Clean(d.verdict.Reasons[0].Found), wire.Clean(d.verdict.Reasons[0].Expected)
	}
	out.Status, out.Event = status, event
	return out
}

// reasonText is all reasons on a few lines, of bounded length.
func reasonText(reasons []wire.Reason) string {
	text := ""
	for i, r := range reasons[:min(len(reasons), wire.MaxReasons)] {
		if i > 0 {
			text += "; "
		}
		text += wire.Clean(r.String())
	}
	return text
}

// ackHash is what is stored of the expected M5: enough to recognise it, useless to make one.
func ackHash(mac []byte) string {
	sum := sha256.Sum256(append([]byte("sealboot/ack-hash/v1\x00"), mac...))
	return hex.EncodeToString(sum[:])
}

func denial(status int, d *decision) *failure {
	id := ""
	if d.verdict.Claim != nil {
		id = d.id
	}
	return &failure{status: status, code: d.verdict.Reasons[0].Code, decision: id, reasons: d.verdict.Reasons,
		cause: errors.New(reasonText(d.verdict.Reasons))}
}

func (s *Server) count(d *decision) {
	verdict, code := "deny", wire.Code("none")
	if d.verdict.Allowed() {
		verdict = "allow"
	} else {
		code = d.verdict.Reasons[0].Code
	}
	s.metrics.decisions.WithLabelValues(string(d.verdict.Claimed.Phase), verdict, string(code)).Inc()
}

// ack takes M5 and commits what the device has now proven.
func (s *Server) ack(ctx context.Context, _ *http.Request, body []byte) ([]byte, error) {
	var m wire.Ack
	if err := wire.Unmarshal(body, &m); err != nil {
		return nil, malformed(err)
	}
	err := s.Store.Confirm(ctx, m.Decision, ackHash(m.MAC))
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAck) {
		return nil, refuse(http.StatusForbidden, wire.CodeCookie, "", err)
	}
	if err != nil {
		return nil, err
	}
	s.metrics.acks.Inc()
	return []byte("{}"), nil
}
