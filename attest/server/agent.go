package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/sealboot/sealboot/attest/agent/api"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
)

// agentHandler answers a caller whose certificate TLS verified and who is still admitted.
type agentHandler func(ctx context.Context, d store.Device, decision string, body []byte) error

// agent admits the holders of agent certificates. A device that was quarantined or removed is refused although its
// certificate has not run out. One that was removed and enrolled again has to boot first: its certificate is of before.
func (s *Server) agent(h agentHandler) handler {
	return func(ctx context.Context, r *http.Request, body []byte) ([]byte, error) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return nil, refuse(http.StatusUnauthorized, wire.CodeDevice, "", errors.New("no agent certificate"))
		}
		id, err := s.Site.CA.VerifyAgent(r.TLS.PeerCertificates[0])
		if err != nil {
			return nil, refuse(http.StatusForbidden, wire.CodeDevice, "", err)
		}
		d, err := s.Store.Device(ctx, id.Device)
		if errors.Is(err, store.ErrNotFound) {
			return nil, refuse(http.StatusForbidden, wire.CodeDevice, "this device is not enrolled", err)
		}
		if err != nil {
			return nil, err
		}
		if d.State != store.Enrolled {
			return nil, refuse(http.StatusForbidden, wire.CodeDevice, "this device is "+string(d.State), nil)
		}
		if d.Confirmed.Decision == "" {
			return nil, refuse(http.StatusForbidden, wire.CodeDevice, "this device has not proven a boot since it was enrolled; reboot it", nil)
		}
		if err := h(ctx, d, id.Decision, body); err != nil {
			return nil, err
		}
		past, err := s.history(ctx, d.ID)
		if err != nil {
			return nil, err
		}
		return json.Marshal(api.Identity{
			Site: s.Site.Name, Device: d.ID, Label: d.Label, Decision: id.Decision, Image: d.Confirmed.Image,
			Version: d.Confirmed.Version, Healthy: past.HealthyVersion, Time: s.Now().Unix(),
		})
	}
}

func (s *Server) whoami(context.Context, store.Device, string, []byte) error { return nil }

// health raises the healthy version to that of the image the device last proved to have booted, and only
// if the report is about that very boot.
func (s *Server) health(ctx context.Context, d store.Device, decision string, body []byte) error {
	var m api.Health
	if err := json.Unmarshal(body, &m); err != nil {
		return malformed(err)
	}
	if d.Confirmed.Decision == "" || m.Boot != d.Confirmed.Decision {
		return refuse(http.StatusConflict, wire.CodePolicy, "this is not the device's last acknowledged boot", nil)
	}
	past, err := s.history(ctx, d.ID)
	if err != nil || past.HealthyVersion >= d.Confirmed.Version {
		return err
	}
	healthy := policy.History{HealthyVersion: d.Confirmed.Version}
	return s.Store.RaiseVersions(ctx, d.ID, healthy.Numbers(), store.Event{
		Kind: "health", Decision: decision, Detail: map[string]string{"image": d.Confirmed.Image},
	})
}
