package main

import (
	"crypto/ecdsa"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/seal"
	"github.com/sealboot/sealboot/boot/config"
)

func newPolicySignCmd() *cobra.Command {
	var keyFile, out string
	cmd := &cobra.Command{
		Use:   "sign --key FILE DOCUMENT",
		Short: "Sign a policy document that was reviewed, for a site that adds only those",
		Long: `Sign a policy document, such as the firmware profile of a hardware model, where it was reviewed. The document stays
readable in the signed file. The site adds it with "sealboot policy add --signed-by".

The key is ECDSA P-256, PKCS #8 in PEM, in a file that only its owner can read:

  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out reviewer.key
  openssl pkey -in reviewer.key -pubout -out reviewer.pub`,
		Example: `  sealboot policy sign --key reviewer.key firmware.json -o firmware.signed.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := seal.ReadFile(keyFile)
			if err != nil {
				return err
			}
			defer clear(text)
			key, err := ca.ParseKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			signed, err := policy.Sign(key, raw)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out == "" {
				_, err := cmd.OutOrStdout().Write(signed)
				return err
			}
			return os.WriteFile(out, signed, 0o644)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "the reviewer's private key")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; empty means standard output")
	require(cmd, "key")
	return cmd
}

// readPublicKey reads a P-256 public key, PKIX in PEM.
func readPublicKey(file string) (*ecdsa.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s: want a public key in PEM, found something else", file)
	}
	key, err := config.PublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}
