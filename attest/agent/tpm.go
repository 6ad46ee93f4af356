package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os/exec"
	"strings"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/tpm"
)

// TPMKey is the agent key in the machine's TPM.
type TPMKey struct {
	TPM      *tpm.TPM
	Handover *Handover
	Version  string // ours, for people
}

var _ Key = (*TPMKey)(nil)

// Signer implements [Key].
func (k *TPMKey) Signer(ctx context.Context, approval []byte, cert *x509.Certificate) (crypto.Signer, error) {
	return device.NewAgentKey(ctx, k.TPM, approval, cert)
}

// Renew implements [Key]: it attests the running OS with the logs of the handover.
func (k *TPMKey) Renew(ctx context.Context) (cert, approval []byte, err error) {
	client, err := k.client()
	if err != nil {
		return nil, nil, err
	}
	var logs device.Logs
	if logs.Events, err = k.Handover.read(FileEventLog); err != nil {
		return nil, nil, err
	}
	if k.Handover.Has(FileFirmwareLog) {
		if logs.Firmware, err = k.Handover.read(FileFirmwareLog); err != nil {
			return nil, nil, err
		}
	}
	r, err := client.Renew(ctx, logs)
	if err != nil {
		return nil, nil, err
	}
	return r.AgentCert, r.AgentApproval, nil
}

func (k *TPMKey) client() (*device.Client, error) {
	server, err := wire.ParseKey(k.Handover.Result.ServerKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileResult, err)
	}
	text, err := k.Handover.read(FileApproval)
	if err != nil {
		return nil, err
	}
	var approval wire.AgentApproval
	if err := wire.Unmarshal(text, &approval); err != nil {
		return nil, fmt.Errorf("%s: %w", FileApproval, err)
	}
	pub, err := x509.ParsePKIXPublicKey(approval.ReleaseKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileApproval, err)
	}
	release, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s: release key is %T, want ECDSA P-256", FileApproval, pub)
	}
	return &device.Client{
		TPM: k.TPM, URL: k.Handover.Result.URL, Site: k.Handover.Result.Issuer, ServerKey: server, ReleaseKey: release, Loader: k.Version,
		HTTP: &http.Client{Transport: &http.Transport{
			Proxy:           http.ProxyFromEnvironment,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: k.Handover.SiteCA, Time: k.Handover.Now},
		}},
	}, nil
}

// Systemd waits until systemd has started everything and tells whether a unit failed.
func Systemd(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Output()
	if err != nil {
		return fmt.Errorf("systemd says %q: %w (systemctl --failed lists the units)", strings.TrimSpace(string(out)), err)
	}
	return nil
}
