package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
)

func newPolicyCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say what is known to be good: images, loaders, firmware profiles, rules",
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "the site's directory")
	cmd.AddCommand(newPolicyAddCmd(&dir), newPolicyListCmd(&dir), newPolicyRetireCmd(&dir), newPolicyRulesCmd())
	return cmd
}

func newPolicyAddCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "add FILE...",
		Short: "Add reference values and rules; attestd uses them at once",
		Long: `Add policy documents: image and loader references as sealboot predict writes them, firmware profiles, rules.

Old and new images stay accepted side by side until the old one is retired. A name is never used twice: what a
decision was based on stays readable.`,
		Example: `  sealboot policy add --dir DIR image-1.4.json loader.json firmware.json rules.json`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				for _, file := range files {
					raw, err := os.ReadFile(file)
					if err != nil {
						return err
					}
					doc, err := policy.Parse(raw)
					if err != nil {
						return fmt.Errorf("%s: %w", file, err)
					}
					kind, name := policy.NameOf(doc)
					err = db.Add(ctx, store.Document{Kind: string(kind), Name: name, Body: raw}, policyEvent("added", string(kind), name))
					if errors.Is(err, store.ErrExists) {
						return fmt.Errorf("%s: %s %q: %w; give the new one another name", file, kind, name, err)
					}
					if err != nil {
						return fmt.Errorf("%s: %w", file, err)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "added %s %s\n", kind, name)
				}
				return nil
			})
		},
	}
}

func policyEvent(what, kind, name string) store.Event {
	return store.Event{Kind: "policy", Actor: actor(), Reason: what, Detail: map[string]string{"kind": kind, "name": name}}
}

func newPolicyListCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the documents, retired ones too", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				docs, err := db.Documents(ctx)
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "KIND\tNAME\tADDED\tRETIRED")
				for _, d := range docs {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Kind, d.Name, stamp(d.Added), stamp(d.Retired))
				}
				return w.Flush()
			})
		},
	}
}

func newPolicyRetireCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "retire KIND/NAME...",
		Short:   "Take documents out of use: what only they admitted is denied from now on",
		Example: `  sealboot policy retire --dir DIR image/edge-os-1.3`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				for _, a := range args {
					kind, name, ok := strings.Cut(a, "/")
					if !ok {
						return fmt.Errorf("%q: want KIND/NAME as sealboot policy list shows them", a)
					}
					if err := db.Retire(ctx, kind, name, policyEvent("retired", kind, name)); err != nil {
						return fmt.Errorf("%s: %w; sealboot policy list shows them", a, err)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "retired %s %s\n", kind, name)
				}
				return nil
			})
		},
	}
}

func newPolicyRulesCmd() *cobra.Command {
	var name, out string
	var roots []string
	cmd := &cobra.Command{
		Use:   "rules --root-of-trust CLASS",
		Short: "Write a set of rules to start from",
		Long: `Write rules that accept any provenance, clock and rollback floor, from platforms of the given classes.
Images and loaders are pinned by their own references. Edit the file, then add it.`,
		Example: `  sealboot policy rules --root-of-trust hardware --root-of-trust locked -o rules.json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var classes []policy.RootOfTrust
			for _, r := range roots {
				if !slices.Contains(policy.RootsOfTrust(), r) {
					return fmt.Errorf("--root-of-trust %s: want one of %s", r, strings.Join(policy.RootsOfTrust(), ", "))
				}
				classes = append(classes, policy.RootOfTrust(r))
			}
			return writeDocument(out, policy.DefaultRules(name, classes...))
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "rules", "the document's name")
	f.StringArrayVar(&roots, "root-of-trust", nil, "class of platform to accept: hardware, locked, writable or virtual (repeat)")
	f.StringVarP(&out, "output", "o", "", "file to write; empty means standard output")
	require(cmd, "root-of-trust")
	oneOf(cmd, "root-of-trust", policy.RootsOfTrust()...)
	return cmd
}
