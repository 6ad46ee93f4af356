package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
)

func newSecretCmd() *cobra.Command {
	var dir, device string
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Give devices secrets of your own: they are released with the seal key",
		Long: `Store secrets that the operating system of a device gets with the seal key, in /run/sealboot/secrets.json.

They are encrypted with the site's key-encryption key, in the site's directory. attestd uses a change at the next boot.`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&dir, "dir", "", "the site's directory")
	f.StringVar(&device, "device", "", "for this device only, by label, ID or its beginning (default: for all devices)")
	cmd.AddCommand(newSecretSetCmd(&dir, &device), newSecretListCmd(&dir), newSecretRemoveCmd(&dir, &device))
	return cmd
}

// withSecret runs f for a secret and notes in the audit log what was done to it.
func withSecret(ctx context.Context, dir, device, name, done string, f func(*site.Site, site.SecretName) error) error {
	return withStore(ctx, dir, func(ctx context.Context, s *site.Site, db *store.Store) error {
		n := site.SecretName{Name: name}
		if device != "" {
			d, err := find(ctx, db, device)
			if err != nil {
				return err
			}
			n.Device = d.ID
		}
		if err := f(s, n); err != nil {
			return err
		}
		return db.Note(ctx, store.Event{Kind: "secret", Device: n.Device, Actor: actor(), Reason: done, Detail: map[string]string{"name": name}})
	})
}

func newSecretSetCmd(dir, device *string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a secret, from standard input or a file, byte for byte",
		Example: `  sealboot site secret set --dir DIR registry-token < token
  sealboot site secret set --dir DIR --device till-3 vpn.key --file vpn.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			value, err := io.ReadAll(io.LimitReader(in, 1<<20)) // SetSecret refuses far less
			if err != nil {
				return fmt.Errorf("read the secret: %w", err)
			}
			defer clear(value)
			return withSecret(cmd.Context(), *dir, *device, args[0], "set", func(s *site.Site, n site.SecretName) error {
				return s.SetSecret(n, value)
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file to read instead of standard input")
	return cmd
}

func newSecretListCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the names of the secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), *dir, func(_ context.Context, s *site.Site, _ *store.Store) error {
				names, err := s.SecretNames()
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tDEVICE")
				for _, n := range names {
					device := n.Device
					if device == "" {
						device = "all"
					}
					fmt.Fprintf(w, "%s\t%s\n", n.Name, device)
				}
				return w.Flush()
			})
		},
	}
}

func newSecretRemoveCmd(dir, device *string) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a secret: it is not released again", Args: cobra.ExactArgs(1),
		Example: `  sealboot site secret remove --dir DIR registry-token`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSecret(cmd.Context(), *dir, *device, args[0], "removed", func(s *site.Site, n site.SecretName) error {
				return s.RemoveSecret(n)
			})
		},
	}
}
