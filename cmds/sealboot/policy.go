package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
)

func newPolicyCmd() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say what is known to be good: images, loaders, firmware profiles, rules",
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "the site's directory")
	cmd.AddCommand(newPolicyAddCmd(&dir), newPolicySignCmd(), newPolicyListCmd(&dir), newPolicyRetireCmd(&dir), newPolicyRulesCmd())
	return cmd
}

func newPolicyAddCmd(dir *string) *cobra.Command {
	var signedBy string
	cmd := &cobra.Command{
		Use:   "add FILE...",
		Short: "Add reference values and rules; attestd uses them at once",
		Long: `Add policy documents: image and loader references as sealboot predict writes them, firmware profiles, rules.

Old and new images stay accepted side by side until the old one is retired. A name is never used twice: what a
decision was based on stays readable.

With --signed-by, only documents that "sealboot policy sign" has signed with the key's private half are added.`,
		Example: `  sealboot policy add --dir DIR image-1.4.json loader.json firmware.json rules.json
  sealboot policy add --dir DIR --signed-by reviewer.pub firmware.signed.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var key *ecdsa.PublicKey
			if signedBy != "" {
				var err error
				if key, err = readPublicKey(signedBy); err != nil {
					return err
				}
			}
			return withStore(cmd.Context(), *dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
				for _, file := range files {
					if err := addPolicy(ctx, cmd.OutOrStdout(), db, file, key); err != nil {
						return fmt.Errorf("%s: %w", file, err)
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&signedBy, "signed-by", "", "public key (PEM) that must have signed the documents")
	return cmd
}

// addPolicy adds one document, which key must have signed unless it is nil.
func addPolicy(ctx context.Context, out io.Writer, db *store.Store, file string, key *ecdsa.PublicKey) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc policy.Document
	if key == nil {
		doc, err = policy.Parse(raw)
	} else if doc, err = policy.Open(key, raw); err == nil {
		raw, err = policy.Marshal(doc)
	}
	if err != nil {
		return err
	}
	kind, name := policy.NameOf(doc)
	e := policyEvent("added", string(kind), name)
	if key != nil {
		if e.Detail["signedBy"], err = wire.FormatKey(key); err != nil {
			return err
		}
	}
	err = db.Add(ctx, store.Document{Kind: string(kind), Name: name, Body: raw}, e)
	if errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%s %q: %w; give the new one another name", kind, name, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "added %s %s\n", kind, name)
	return nil
}

func policyEvent(what, kind, name string) store.Event {
	return store.Event{Kind: "policy", Actor: actor(), Reason: what, Detail: map[string]string{"kind": kind, "name": name}}
}

func newPolicyListCmd(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the documents, retired ones too", Args: cobra.NoArgs,
		Example: `  sealboot policy list --dir DIR`,
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

// checkClass refuses a class of platform that there is not.
func checkClass(class string) error {
	if !slices.Contains(policy.RootsOfTrust(), class) {
		return fmt.Errorf("--root-of-trust %s: want one of %s", class, strings.Join(policy.RootsOfTrust(), ", "))
	}
	return nil
}

func newPolicyRulesCmd() *cobra.Command {
	var name, out string
	var roots, banks []string
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
				if err := checkClass(r); err != nil {
					return err
				}
				classes = append(classes, policy.RootOfTrust(r))
			}
			rules := policy.DefaultRules(name, classes...)
			rules.Banks = banks
			return writeDocument(out, rules)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "rules", "the document's name")
	f.StringArrayVar(&roots, "root-of-trust", nil, "class of platform to accept: hardware, locked, writable or virtual (repeat)")
	f.StringArrayVar(&banks, "bank", nil, "PCR bank to accept evidence in: sha256 (the default) or sha384, if the firmware of every device extends it (repeat)")
	f.StringVarP(&out, "output", "o", "", "file to write; empty means standard output")
	require(cmd, "root-of-trust")
	oneOf(cmd, "root-of-trust", policy.RootsOfTrust()...)
	return cmd
}
