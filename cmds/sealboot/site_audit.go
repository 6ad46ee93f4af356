package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
)

func newSiteAuditCmd() *cobra.Command {
	var dir, replica, kept string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check that the audit log is whole: its chain, its signed head, and heads that were put away",
		Long: `Follow the audit log of an attestd from its first record to its signed head.

A head that was put away earlier (what attestd shows at /audit/heads) also finds a log that was cut and continued
by anyone who holds the server key.`,
		Example: `  sealboot site audit --dir DIR --kept heads.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), dir, func(ctx context.Context, s *site.Site, db *store.Store) error {
				replica := cmp.Or(replica, s.Replica)
				old, err := keptHeads(kept, replica)
				if err != nil {
					return err
				}
				head, err := db.VerifyAudit(ctx, replica, s.ServerPublic(), old...)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d records are whole, the last of %s\n", replica, head.Seq, head.Time.Format(time.RFC3339))
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "the site's directory")
	f.StringVar(&replica, "replica", "", "whose log, if several servers share the store (default: of this directory's)")
	f.StringVar(&kept, "kept", "", "file with heads that were put away, as /audit/heads shows them")
	require(cmd, "dir")
	return cmd
}

// keptHeads reads the heads of one replica from a file; empty means that there is none.
func keptHeads(file, replica string) ([]store.Head, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var heads []store.Head
	if err := json.Unmarshal(text, &heads); err != nil {
		return nil, fmt.Errorf("%s: want what /audit/heads shows: %w", file, err)
	}
	heads = slices.DeleteFunc(heads, func(h store.Head) bool { return h.Replica != replica })
	if len(heads) == 0 {
		return nil, fmt.Errorf("%s has no head of %q", file, replica)
	}
	return heads, nil
}
