package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealboot/sealboot/attest/agent/api"
	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/measure/atomicfile"
	"github.com/sealboot/sealboot/measure/pause"
	"github.com/sealboot/sealboot/measure/redact"
)

// Key is the agent key and what can be had with it. [TPMKey] is the real one.
type Key interface {
	// Signer returns the agent key that the certificate is for.
	Signer(ctx context.Context, approval []byte, cert *x509.Certificate) (crypto.Signer, error)
	// Renew attests the running OS and returns a new certificate (PEM) and approval.
	Renew(ctx context.Context) (cert, approval []byte, err error)
}

// Agent keeps a device's credentials fresh and tells attestd that its OS works.
type Agent struct {
	Handover *Handover
	Key      Key
	// Healthy returns nil once the OS works, and an error if it will not. Nil never reports health.
	Healthy func(ctx context.Context) error
	Log     *slog.Logger
}

// Waits of the agent. Each is stretched by up to a quarter, so that a site does not speak in unison.
const (
	retryFirst   = 30 * time.Second
	retryLongest = 30 * time.Minute
	callTimeout  = 60 * time.Second // a TPM may need seconds for one signature
	maxAnswer    = 16 << 10
)

// Run calls Once, then renews the certificate at half its life, until ctx ends. A failure is logged and
// tried again with growing waits.
func (a *Agent) Run(ctx context.Context) error {
	wait, reported := retryFirst, false
	for {
		err := a.round(ctx, !reported)
		if ctx.Err() != nil {
			return nil
		}
		next := a.untilRenewal(a.Handover.Now())
		if err != nil {
			a.Log.Error("attestd was not satisfied or not reached; will try again", "in", wait, "err", err)
			next, wait = wait, min(2*wait, retryLongest)
		} else {
			wait, reported = retryFirst, true
		}
		if pause.For(ctx, stretch(next)) != nil {
			return nil
		}
	}
}

// Once identifies the device to attestd, reports its health, renews the certificate and uses it.
func (a *Agent) Once(ctx context.Context) error {
	if err := a.round(ctx, true); err != nil {
		return err
	}
	if err := a.renew(ctx); err != nil {
		return err
	}
	_, err := a.whoami(ctx)
	return err
}

// round makes a visit, and another by the other clock if the first failed for the date.
func (a *Agent) round(ctx context.Context, report bool) error {
	err := a.visit(ctx, report)
	if a.Handover.doubt(err) {
		a.Log.Warn("attestd's certificate is not valid by this clock; will try another", "err", err)
		err = a.visit(ctx, report)
	}
	return err
}

// visit brings the certificate up to date and reports.
func (a *Agent) visit(ctx context.Context, report bool) error {
	if a.untilRenewal(a.Handover.Now()) <= 0 {
		if err := a.renew(ctx); err != nil {
			return err
		}
	}
	if _, err := a.whoami(ctx); err != nil {
		return err
	}
	if !report || a.Healthy == nil {
		return nil
	}
	if err := a.Healthy(ctx); err != nil {
		return fmt.Errorf("the OS is not healthy, attestd is not told that it is: %w", err)
	}
	var id api.Identity
	if err := a.call(ctx, api.PathHealth, api.Health{Boot: a.Handover.Result.Decision}, &id); err != nil {
		return fmt.Errorf("report health: %w", err)
	}
	a.Log.Info("reported healthy", "image", id.Image, "version", id.Version)
	return nil
}

func (a *Agent) whoami(ctx context.Context) (api.Identity, error) {
	var id api.Identity
	if err := a.call(ctx, api.PathWhoami, struct{}{}, &id); err != nil {
		return id, fmt.Errorf("identify to attestd: %w", err)
	}
	a.Log.Info("attestd knows this device", "device", id.Device, "label", id.Label, "decision", id.Decision,
		"until", a.Handover.Identity.NotAfter.Format(time.RFC3339))
	return id, nil
}

// untilRenewal is the time left to half of the certificate's life.
func (a *Agent) untilRenewal(now time.Time) time.Duration {
	c := a.Handover.Certificate
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2).Sub(now)
}

// renew replaces certificate and approval, in memory and in the handover's directory.
func (a *Agent) renew(ctx context.Context) error {
	text, approval, err := a.Key.Renew(ctx)
	if err != nil {
		return err
	}
	cert, id, err := ca.ParseAgentPEM(text)
	if err != nil {
		return err
	}
	if id.Device != a.Handover.Identity.Device {
		return fmt.Errorf("renew the agent certificate: attestd sent one of device %s", id.Device)
	}
	for name, data := range map[string][]byte{FileApproval: approval, FileCertificate: text} {
		if err := atomicfile.Write(filepath.Join(a.Handover.Dir, name), data, 0o400); err != nil {
			return fmt.Errorf("keep the new agent certificate: %w", err)
		}
	}
	a.Handover.Certificate, a.Handover.Identity = cert, id
	a.Log.Info("renewed the agent certificate", "decision", id.Decision, "until", id.NotAfter.Format(time.RFC3339))
	return nil
}

// call posts one message over TLS, authenticated by the key in the TPM.
func (a *Agent) call(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := a.client(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.Handover.Result.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return redact.Error(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("attestd answers %s: %s", resp.Status, bytes.TrimSpace(answer))
	}
	return json.Unmarshal(answer, out)
}

func (a *Agent) client(ctx context.Context) (*http.Client, error) {
	approval, err := a.Handover.read(FileApproval)
	if err != nil {
		return nil, err
	}
	signer, err := a.Key.Signer(ctx, approval, a.Handover.Certificate)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			RootCAs:      a.Handover.SiteCA,
			Time:         a.Handover.Now,
			Certificates: []tls.Certificate{{Certificate: [][]byte{a.Handover.Certificate.Raw}, PrivateKey: signer, Leaf: a.Handover.Certificate}},
		},
	}}, nil
}

// stretch lengthens a wait by a random part, at most a quarter.
func stretch(d time.Duration) time.Duration {
	d = max(d, time.Second)
	return d + rand.N(d/4+1)
}
