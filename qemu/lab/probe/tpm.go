package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// replay compares what both logs say with what the TPM has, in every bank. Where
// it sees EFI variables, systemd goes on extending PCR 11.
func replay(ctx context.Context) (string, error) {
	t, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		return "", err
	}
	defer t.Close()
	logs, err := readLogs()
	if err != nil {
		return "", err
	}
	firmware, err := fwlog.Parse(logs.Firmware)
	if err != nil {
		return "", err
	}
	entries, err := cel.Parse(logs.Events)
	if err != nil {
		return "", err
	}
	if last := entries[len(entries)-1].Record; last.Type != "cap" {
		return "", fmt.Errorf("the log ends with %q, not with the cap", last.Type)
	}
	banks, err := t.Banks(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, bank := range banks {
		values, err := firmware.Replay(bank)
		if err != nil {
			return "", err
		}
		if values, err = cel.Replay(values, entries, bank); err != nil {
			return "", err
		}
		text, err := compare(ctx, t, values, bank)
		if err != nil {
			return "", fmt.Errorf("%s: %w", pcr.BankName(bank), err)
		}
		found = append(found, pcr.BankName(bank)+": "+text)
	}
	return strings.Join(found, "; "), nil
}

func compare(ctx context.Context, t *tpm.TPM, values pcr.Values, bank tpm2.TPMAlgID) (string, error) {
	indices := slices.Sorted(maps.Keys(values))
	has, err := t.ReadPCRs(ctx, bank, indices)
	if err != nil {
		return "", err
	}
	for _, i := range []int{0, 2, 4, 7, 11, 12, 13} {
		if !slices.Contains(indices, i) {
			return "", fmt.Errorf("the logs do not mention PCR %d", i)
		}
	}
	var same []string
	moved := ""
	for _, i := range indices {
		switch {
		case bytes.Equal(values[i], has[i]):
			same = append(same, fmt.Sprint(i))
		case i == 11:
			moved = fmt.Sprintf(", PCR 11 was %.8x and is %.8x", values[i], has[i])
		default:
			return "", fmt.Errorf("PCR %d is %x, the logs give %x", i, has[i], values[i])
		}
	}
	return fmt.Sprintf("PCRs %s are as the logs say%s", strings.Join(same, " "), moved), nil
}

func readLogs() (logs device.Logs, err error) {
	if logs.Firmware, err = os.ReadFile(handover + "binary_bios_measurements"); err != nil {
		return logs, err
	}
	logs.Events, err = os.ReadFile(handover + "eventlog.cel")
	return logs, err
}

// askAgain asks for another release, as the loader did. The cap is in PCR 12:
// attestd must refuse, whether the log admits the cap or not.
func askAgain(ctx context.Context) (string, error) {
	t, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		return "", err
	}
	defer t.Close()
	c, err := client(t)
	if err != nil {
		return "", err
	}
	logs, err := readLogs()
	if err != nil {
		return "", err
	}
	code, honest := denial(ctx, c, logs)
	if code != wire.CodePhase {
		return "", fmt.Errorf("with the cap in the log: %s", honest)
	}
	entries, err := cel.Parse(logs.Events)
	if err != nil {
		return "", err
	}
	if logs.Events, err = cel.Marshal(entries[:len(entries)-1]); err != nil {
		return "", err
	}
	code, lying := denial(ctx, c, logs)
	if code != wire.CodeReplay {
		return "", fmt.Errorf("with the cap kept from the log: %s", lying)
	}
	return honest + " | and without the cap in the log: " + lying, nil
}

// denial is why attestd refuses, as a code and as text.
func denial(ctx context.Context, c *device.Client, logs device.Logs) (wire.Code, string) {
	r, err := c.Boot(ctx, logs)
	if err == nil {
		r.Wipe()
		return "", "it was GRANTED"
	}
	var denied *device.Denied
	if !errors.As(err, &denied) {
		return "", "not denied but " + err.Error()
	}
	return denied.Code, err.Error()
}

// client speaks to the attestd that released this boot.
func client(t *tpm.TPM) (*device.Client, error) {
	raw, err := os.ReadFile("/etc/sealboot/site.json")
	if err != nil {
		return nil, err
	}
	site, err := config.ParseSite(raw)
	if err != nil {
		return nil, err
	}
	c := &device.Client{TPM: t, URL: site.Attestd.URL, Site: site.Name, Loader: "probe"}
	if c.ServerKey, err = config.PublicKey(site.ServerKey); err != nil {
		return nil, err
	}
	if c.ReleaseKey, err = config.PublicKey(site.ReleaseKey); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(site.Attestd.CA))
	c.HTTP = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return c, nil
}
