package loader

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/boot/base/transport"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/handover"
	"github.com/sealboot/sealboot/measure/event"
)

const ackAttempts = 3

// attester returns the site's attestd, and the record of its release key.
func (m *Machine) attester() (*attester, *event.Record, error) {
	site := m.o.Site
	server, err := config.PublicKey(site.ServerKey)
	if err != nil {
		return nil, nil, fmt.Errorf("serverKey: %w", err)
	}
	release, err := config.PublicKey(site.ReleaseKey)
	if err != nil {
		return nil, nil, fmt.Errorf("releaseKey: %w", err)
	}
	t, err := transport.New(transport.Options{
		CA: []byte(site.Attestd.CA), MinVersion: tls.VersionTLS13, Dial: m.dialer().DialContext, Proxy: m.proxy,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("attestd.ca: %w", err)
	}
	rec, err := keys.ReleaseKeyRecord(release)
	if err != nil {
		return nil, nil, err
	}
	a := &attester{tpm: m.tpm, floor: m.floor, console: m.o.Console, client: device.Client{
		HTTP:       &http.Client{Transport: m.clock.Transport(t, true)},
		URL:        site.Attestd.URL,
		Site:       site.Name,
		ServerKey:  server,
		ReleaseKey: release,
		Loader:     m.o.Version,
	}}
	if t := site.Attestd.JoinToken; t != "" {
		a.client.JoinToken = []byte(t)
	}
	return a, &rec, nil
}

// attester is attest/device for the flow.
type attester struct {
	tpm     *tpmDevice
	floor   *nvFloor
	console flow.Reporter
	client  device.Client
	ek      string // hex SHA-256 of the EK's public area, when it is known
}

var _ flow.Attester = (*attester)(nil)

func (a *attester) Hello(ctx context.Context) (*flow.Hello, error) {
	a.client.TPM = a.tpm.tpm
	if a.ek == "" {
		ek, err := a.client.EK(ctx)
		if err != nil {
			return nil, err
		}
		a.ek = ek
	}
	h, err := a.client.Hello(ctx, a.ek)
	if err != nil {
		return nil, err
	}
	a.floor.order, a.floor.healthy = h.RepairFloor, h.HealthyVersion
	return &flow.Hello{Time: h.Clock(), HealthyVersion: h.HealthyVersion, RepairFloor: h.RepairFloor}, nil
}

func (a *attester) Attest(ctx context.Context, celLog, firmwareLog []byte) (flow.Release, error) {
	a.client.TPM = a.tpm.tpm
	r, err := a.client.Boot(ctx, device.Logs{Firmware: firmwareLog, Events: celLog})
	if denied, ok := errors.AsType[*device.Denied](err); ok {
		// On the way to a person, how it was asked is of no interest.
		return nil, fmt.Errorf("%w: %w", flow.ErrDenied, denied)
	}
	if err != nil {
		return nil, err
	}
	if err := a.ack(ctx, r); err != nil {
		// The secrets are here. That attestd does not know costs the device
		// nothing but to count as one that has never booted.
		a.console.Warn(err)
	}
	return release{r}, nil
}

func (a *attester) ack(ctx context.Context, r *device.Release) (err error) {
	for range ackAttempts {
		if err = a.client.Ack(ctx, r); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (a *attester) Report(ctx context.Context, s flow.Stage, reason string) error {
	return a.client.Report(ctx, a.ek, string(s), errors.New(reason))
}

// release is what attestd gave, in the form that is handed over.
type release struct{ *device.Release }

func (r release) content() handover.Content {
	return handover.Content{
		Attestation:   r.AttestationResult,
		SealKey:       r.SealKey,
		AgentCert:     r.AgentCert,
		AgentApproval: r.AgentApproval,
		SiteCA:        r.SiteCA,
		Secrets:       r.Secrets,
	}
}

// handoverContent is everything that the operating system gets.
func handoverContent(h flow.Handover) (*handover.Content, error) {
	var c handover.Content
	if h.Release != nil {
		r, ok := h.Release.(release)
		if !ok {
			return nil, fmt.Errorf("a release of type %T", h.Release)
		}
		c = r.content()
	}
	c.EventLog, c.FirmwareLog = h.Log, h.Firmware
	return &c, nil
}
