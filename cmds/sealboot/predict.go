package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/fwlog/armor"
	"github.com/sealboot/sealboot/measure/predict"
)

// predictedBanks are the PCR banks that reference values are made for.
var predictedBanks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}

func newPredictCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "predict",
		Short: "Compute reference values from artifacts, without a TPM and before any boot",
		Long: `Compute what machines will measure, by the code that measures. The results are
policy documents for "sealboot policy add": files to read, review and sign.`,
	}
	cmd.AddCommand(newPredictLoaderCmd(), newPredictImageCmd(), newPredictProfileCmd())
	return cmd
}

func newPredictLoaderCmd() *cobra.Command {
	var ukiPath, sitePath, name, out string
	cmd := &cobra.Command{
		Use:     "loader",
		Short:   "Predict what starting a loader's UKI measures into PCR 4 and 11",
		Example: `  sealboot predict loader --uki loader/loader.efi --site site.json --name loader-1 -o loader-1.json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			raw, site, err := readSite(sitePath)
			if err != nil {
				return err
			}
			doc, err := predictLoader(name, ukiPath, raw, site)
			if err != nil {
				return err
			}
			return writeDocument(out, doc)
		},
	}
	f := cmd.Flags()
	f.StringVar(&ukiPath, "uki", "loader/loader.efi", "the loader's UKI")
	f.StringVar(&sitePath, "site", "site.json", "the site config inside it")
	f.StringVar(&name, "name", "loader", "the document's name")
	f.StringVarP(&out, "output", "o", "", "file to write; empty means standard output")
	return cmd
}

// predictLoader makes the reference of the loader in a UKI file.
func predictLoader(name, path string, siteRaw []byte, site *config.Site) (*policy.Loader, error) {
	doc, err := predictUKI(name, path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(siteRaw)
	doc.SiteConfig = hex.EncodeToString(sum[:])
	doc.ReleaseKey, err = releaseKeyName(site)
	return doc, err
}

// predictUKI is what starting a UKI measures, whatever is in it.
func predictUKI(name, path string) (*policy.Loader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the UKI (sealboot build makes it): %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	events, err := predict.UKI(f, info.Size(), predictedBanks)
	if err != nil {
		return nil, fmt.Errorf("predict %s: %w", path, err)
	}
	doc := &policy.Loader{Header: policy.Header{Version: policy.Version, Kind: policy.KindLoader, Name: name}}
	for _, e := range events {
		switch e.PCR {
		case predict.PCRBootLoader:
			doc.PCR4 = append(doc.PCR4, policy.DigestsOf(e.Digests))
		case predict.PCRKernel:
			doc.PCR11 = append(doc.PCR11, policy.DigestsOf(e.Digests))
		}
	}
	return doc, nil
}

// releaseKeyName is the TPM Name of a site's release key, in hex.
func releaseKeyName(site *config.Site) (string, error) {
	key, err := config.PublicKey(site.ReleaseKey)
	if err != nil {
		return "", fmt.Errorf("site config: releaseKey: %w", err)
	}
	tpmName, err := keys.ReleaseKeyName(key)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(tpmName), nil
}

func newPredictProfileCmd() *cobra.Command {
	var logPath, ukiPath, name, root, out string
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Propose a firmware profile from the event log of a reference machine",
		Long: `Propose the firmware profile of a hardware model from the event log of one machine
of it, which ran the recorder ("sealboot build recorder"). The log is the machine's
binary_bios_measurements, or what was captured of its console.

Read the proposal before you add it: it is what you will trust.`,
		Example: `  sealboot build recorder -o recorder
  sealboot vm run --boot recorder/loader.img > console.log
  sealboot predict profile --log console.log --recorder recorder/loader.efi --name q35 --root-of-trust virtual -o q35.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkClass(root); err != nil {
				return err
			}
			log, err := readFirmwareLog(logPath)
			if err != nil {
				return err
			}
			recorder, err := predictUKI("recorder", ukiPath)
			if err != nil {
				return err
			}
			doc, err := policy.RecordProfile(name, policy.RootOfTrust(root), log, recorder)
			if err != nil {
				return err
			}
			return writeDocument(out, doc)
		},
	}
	f := cmd.Flags()
	f.StringVar(&logPath, "log", "", "the firmware's event log, or a console capture that holds it")
	f.StringVar(&ukiPath, "recorder", "recorder/loader.efi", "the UKI that the machine ran")
	f.StringVar(&name, "name", "", "the hardware model")
	f.StringVar(&root, "root-of-trust", "", "hardware, locked, writable or virtual: who could replace the code that measures first")
	f.StringVarP(&out, "output", "o", "", "file to write; empty means standard output")
	require(cmd, "log", "name", "root-of-trust")
	oneOf(cmd, "root-of-trust", policy.RootsOfTrust()...)
	return cmd
}

// readFirmwareLog reads an event log, in binary or in what was captured of a recorder's console.
func readFirmwareLog(path string) (*fwlog.Log, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--log: %w", err)
	}
	printed, none := armor.Find(raw)
	if none == nil {
		raw = printed
	} else if !errors.Is(none, armor.ErrNone) {
		return nil, fmt.Errorf("%s: %w; boot the recorder again and capture its whole console", path, none)
	}
	log, err := fwlog.Parse(raw)
	if err != nil && none != nil {
		return nil, fmt.Errorf("%s is neither the console of a machine that ran the recorder to its end nor an event log: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("event log %s: %w", path, err)
	}
	return log, nil
}

// writeDocument writes a policy document to a file, or to standard output.
func writeDocument(path string, d policy.Document) error {
	raw, err := policy.Marshal(d)
	if err != nil {
		return err
	}
	raw = append(bytes.TrimRight(raw, "\n"), '\n')
	if path == "" {
		_, err := os.Stdout.Write(raw)
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}
