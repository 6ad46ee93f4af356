package qemu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sealboot/sealboot/qemu/child"
)

// TPMOptions are the properties that a TPM is manufactured with.
type TPMOptions struct {
	// Banks are the active PCR banks, in swtpm's notation; empty means
	// "sha256". Several are separated by commas.
	Banks string
	// CA is the directory of the manufacturer's certificate authority, shared
	// by all TPMs made with it and created when missing. Empty means a CA
	// next to the state.
	CA string
}

// CACertificate returns the paths of the certificates of the manufacturer's
// authority in dir: the issuer of the EK certificates, and its root.
func CACertificate(dir string) (issuer, root string) {
	return filepath.Join(dir, "issuercert.pem"), filepath.Join(dir, "swtpm-localca-rootca-cert.pem")
}

// CreateTPM manufactures a TPM 2.0 in dir: seeds, active banks, an RSA and an
// elliptic-curve endorsement key, and their certificates in NV. The directory
// is what Config.TPM takes. A TPM that exists there already is left as it is.
func CreateTPM(ctx context.Context, dir string, o TPMOptions) error {
	dir, err := filepath.Abs(dir) // swtpm changes its directory
	if err != nil {
		return fmt.Errorf("qemu: TPM directory: %w", err)
	}
	state := filepath.Join(dir, "tpm2-00.permall")
	if _, err := os.Stat(state); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("qemu: TPM state: %w", err)
	}
	ca, err := filepath.Abs(cmp.Or(o.CA, filepath.Join(dir, "ca")))
	if err != nil {
		return fmt.Errorf("qemu: directory of the TPM's CA: %w", err)
	}
	for _, d := range []string{dir, ca} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("qemu: making the TPM's directory: %w", err)
		}
	}
	config, err := writeSetupConfig(dir, ca)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", config,
		"--create-ek-cert", "--lock-nvram", "--pcr-banks", cmp.Or(o.Banks, "sha256"), "--not-overwrite")
	var diag bytes.Buffer
	cmd.Stderr = &diag
	if err := cmd.Run(); err != nil {
		why := strings.ReplaceAll(strings.TrimSpace(diag.String()), "\n", "; ")
		return fmt.Errorf("qemu: making a TPM in %s (packages swtpm and swtpm-tools): %w: %s", dir, err, why)
	}
	return nil
}

// writeSetupConfig writes the three files by which swtpm_setup finds a local
// certificate authority, and returns the first.
func writeSetupConfig(dir, ca string) (string, error) {
	setup := filepath.Join(dir, "swtpm_setup.conf")
	local := filepath.Join(dir, "swtpm-localca.conf")
	options := filepath.Join(dir, "swtpm-localca.options")
	files := map[string]string{
		setup: "create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config=" + local +
			"\ncreate_certs_tool_options=" + options + "\n",
		local: fmt.Sprintf("statedir=%[1]s\nsigningkey=%[1]s/signkey.pem\nissuercert=%[1]s/issuercert.pem\n"+
			"certserial=%[1]s/certserial\n", ca),
		options: "--platform-manufacturer QEMU\n--platform-version 1\n--platform-model q35\n",
	}
	for path, content := range files {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", fmt.Errorf("qemu: writing the TPM's configuration: %w", err)
		}
	}
	return setup, nil
}

// startTPM runs the TPM with its state in dir. The returned end of its control
// channel goes to QEMU; the TPM ends when that closes.
func startTPM(dir string, filter TPMFilter) (*child.Process, *os.File, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("qemu: TPM directory: %w", err)
	}
	ours, theirs, err := socketPair("tpm")
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--ctrl", "type=unixio,clientfd=3", "--terminate", "--log", "level=1,file="+filepath.Join(dir, "swtpm.log"))
	cmd.ExtraFiles = []*os.File{theirs}
	p, err := child.Start(cmd)
	if err != nil {
		ours.Close()
		return nil, nil, fmt.Errorf("qemu: the TPM (package swtpm): %w", err)
	}
	if filter == nil {
		return p, ours, nil
	}
	filtered, err := filter.between(ours)
	if err != nil {
		p.Kill()
		return nil, nil, err
	}
	return p, filtered, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
