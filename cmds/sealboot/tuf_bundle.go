package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/measure/plaintext"
)

func newTUFBundleCmd() *cobra.Command {
	var signer tufSigner
	var targets []string
	var lifetime string
	cmd := &cobra.Command{
		Use:   "bundle REPOSITORY FILE",
		Short: "Write an offline bundle for devices without a network",
		Long: `Write an offline bundle for devices without a network. Its seal is signed by as many
keys of the role targets as that role needs; "tuf seal" adds those that are
elsewhere.`,
		Example: `  sealboot tuf bundle repo /media/SB-MEDIA/bundle.tar --target os --lifetime 30d --key targets.pem`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := days(lifetime)
			if err != nil {
				return err
			}
			keys, err := signer.keys()
			if err != nil {
				return err
			}
			return signer.in(cmd, args[0], func(r *tufrepo.Repo) error {
				missing, err := r.BundleFile(cmd.Context(), time.Now(), tufrepo.Bundle{Lifetime: d, Targets: targets, Keys: keys}, args[1])
				if err != nil {
					return err
				}
				return printSeal(cmd.OutOrStdout(), missing, args[0], args[1])
			})
		},
	}
	signer.flag(cmd)
	cmd.Flags().StringArrayVar(&targets, "target", nil, "take this target along, with what it refers to; all if none is named")
	cmd.Flags().StringVar(&lifetime, "lifetime", "30d", "devices refuse the bundle after this")
	return cmd
}

func newTUFSealCmd() *cobra.Command {
	var signer tufSigner
	cmd := &cobra.Command{
		Use:   "seal REPOSITORY BUNDLE",
		Short: "Add signatures to the seal of an offline bundle",
		Long: `Add signatures to the seal of an offline bundle, a tar or a directory, where keys of the
role targets are kept in different places. The bundle has to verify from what this
machine remembers of the repository. Without --key it shows what the seal says.`,
		Example: `  sealboot tuf seal repo bundle.tar --key targets-2.pem`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := signer.keys()
			if err != nil {
				return err
			}
			return signer.in(cmd, args[0], func(r *tufrepo.Repo) error {
				seal, err := r.Seal(cmd.Context(), args[1], keys)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "timestamp %d, until %s\n", seal.Timestamp, seal.Expires.Format(time.RFC3339))
				return printSeal(cmd.OutOrStdout(), seal.Missing, args[0], args[1])
			})
		},
	}
	signer.flag(cmd)
	return cmd
}

func printSeal(w io.Writer, m tufrepo.Missing, dir, file string) (err error) {
	if m.Need == 0 {
		_, err = fmt.Fprintln(w, "sealed")
	} else {
		_, err = fmt.Fprintf(w, "devices refuse it: the seal needs %d more of the signatures of %s; add them with \"sealboot tuf seal %s %s\"\n",
			m.Need, plaintext.Escape(strings.Join(m.Keys, ", ")), dir, file)
	}
	return err
}
