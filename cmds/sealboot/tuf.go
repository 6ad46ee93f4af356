package main

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/plaintext"
)

func newTUFCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tuf",
		Short: "Publish images in a TUF repository",
		Long: `Publish images in a TUF repository: a directory with metadata/ and targets/ that any
web server or bucket serves.

Every command that changes something signs it with the keys given by --key. What
still lacks signatures is a draft: clients do not see it, and "tuf sign" adds to
it, on other machines too. Keys are PEM files; make one with
"openssl genpkey -algorithm ed25519 -out root.pem" or let "tuf init" do it.

Nothing that lies in the directory is trusted. Every command verifies it first, from
the root and above the versions that this machine remembers outside of it ("tuf
trust"), and shows what it is about to sign as a difference to what is published.
It asks on a terminal; scripts say --yes.`,
	}
	cmd.AddCommand(newTUFInitCmd(), newTUFAddKeyCmd(), newTUFRotateCmd(), newTUFDelegateCmd(),
		newTUFAddCmd(), newTUFRemoveCmd(), newTUFDiffCmd(), newTUFSignCmd(), newTUFDiscardCmd(), newTUFRefreshCmd(), newTUFTrustCmd(),
		newTUFConsistentCmd(), newTUFVerifyCmd(), newTUFExportCmd(), newTUFBundleCmd(), newTUFSealCmd(), newTUFKeyIDCmd())
	return cmd
}

// tufSigner are the flags of commands that sign.
type tufSigner struct {
	tufOperator
	files []string
}

func (s *tufSigner) flag(cmd *cobra.Command) {
	s.tufOperator.flag(cmd)
	s.confirmFlag(cmd)
	cmd.Flags().StringArrayVarP(&s.files, "key", "k", nil, "sign with the private key in this file; may be repeated")
}

func (s *tufSigner) keys() ([]crypto.Signer, error) {
	var keys []crypto.Signer
	for _, file := range s.files {
		key, _, err := tufrepo.ReadKey(file)
		if err != nil {
			return nil, err
		}
		if key == nil {
			return nil, fmt.Errorf("%s is a public key; signing needs the private one", file)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// apply makes changes in a repository and says what came of them.
func (s *tufSigner) apply(cmd *cobra.Command, r *tufrepo.Repo, changes ...tufrepo.Change) error {
	keys, err := s.keys()
	if err != nil {
		return err
	}
	status, err := r.Apply(cmd.Context(), time.Now(), keys, changes...)
	if err != nil {
		return err
	}
	if s.draft != "" && len(status.Versions) == 0 {
		return fmt.Errorf("%w: there is no draft, neither %s nor another", errUnconfirmed, s.draft)
	}
	return printTUFStatus(cmd.OutOrStdout(), status)
}

// changing completes a command on a repository, its first argument: it makes
// the changes that the arguments and flags ask for.
func changing(cmd *cobra.Command, changes func(args []string) ([]tufrepo.Change, error)) *cobra.Command {
	return changingBy(new(tufSigner), cmd, changes)
}

func changingBy(signer *tufSigner, cmd *cobra.Command, changes func(args []string) ([]tufrepo.Change, error)) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := changes(args)
		if err != nil {
			return err
		}
		return signer.in(cmd, args[0], func(r *tufrepo.Repo) error { return signer.apply(cmd, r, c...) })
	}
	signer.flag(cmd)
	return cmd
}

func printTUFStatus(w io.Writer, s tufrepo.Status) error {
	var b strings.Builder
	for _, role := range slices.Sorted(maps.Keys(s.Versions)) {
		fmt.Fprintf(&b, "%s %d", plaintext.Escape(role), s.Versions[role])
		if m, ok := s.Missing[role]; ok {
			fmt.Fprintf(&b, ": needs %d more of the signatures of %s", m.Need, plaintext.Escape(strings.Join(m.Keys, ", ")))
		}
		b.WriteByte('\n')
	}
	switch {
	case len(s.Versions) == 0:
		b.WriteString("nothing to do\n")
	case s.Published:
		b.WriteString("published\n")
	default:
		b.WriteString("kept as a draft; add the signatures with \"sealboot tuf sign\"\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func publicKeys(files []string) ([]crypto.PublicKey, error) {
	var pubs []crypto.PublicKey
	for _, file := range files {
		_, pub, err := tufrepo.ReadKey(file)
		if err != nil {
			return nil, err
		}
		pubs = append(pubs, pub)
	}
	return pubs, nil
}

// addKeys trusts the keys in the files with a role.
func addKeys(role string, files []string) ([]tufrepo.Change, error) {
	pubs, err := publicKeys(files)
	var changes []tufrepo.Change
	for _, pub := range pubs {
		changes = append(changes, tufrepo.AddKey(role, pub))
	}
	return changes, err
}

func newTUFInitCmd() *cobra.Command {
	var signer tufSigner
	var trust, thresholds, lifetimes []string
	var generate string
	cmd := &cobra.Command{
		Use:   "init REPOSITORY",
		Short: "Begin a repository",
		Example: `  sealboot tuf init repo --generate keys
  sealboot tuf init repo --trust root=alice.pub --trust root=bob.pub --threshold root=2 --generate keys`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := os.Stat(filepath.Join(args[0], bundle.MetadataDir)); err == nil {
				return fmt.Errorf("%s: %w", args[0], tufrepo.ErrExists) // before keys are made for nothing
			}
			changes, err := initChanges(cmd, trust, thresholds, lifetimes, generate, &signer)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return signer.locked(cmd, args[0], func(r *tufrepo.Repo) error {
				if err := signer.apply(cmd, r, changes...); err != nil {
					return err
				}
				if err := printTrust(cmd.OutOrStdout(), r); !errors.Is(err, tufrepo.ErrUntrusted) {
					return err
				}
				return nil // a draft: its root waits for signatures
			})
		},
	}
	signer.flag(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&trust, "trust", nil, "`ROLE=FILE`: trust the key in this file with a role; may be repeated")
	f.StringArrayVar(&thresholds, "threshold", nil, "`ROLE=N`: so many keys must sign a role")
	f.StringArrayVar(&lifetimes, "lifetime", nil, "`ROLE=TIME`: a role is valid for so long, such as 7d or 12h")
	f.StringVar(&generate, "generate", "", "make a key in this `directory` for every role without one, and sign with it")
	return cmd
}

func initChanges(cmd *cobra.Command, trust, thresholds, lifetimes []string, generate string, signer *tufSigner) ([]tufrepo.Change, error) {
	limits, err := roleLimits(thresholds, lifetimes) // before keys are made for nothing
	if err != nil {
		return nil, err
	}
	if err := signer.mayAsk(cmd); err != nil {
		return nil, err
	}
	changes := []tufrepo.Change{tufrepo.Create()}
	files := map[string][]string{}
	for _, t := range trust {
		role, file, err := assignment(t)
		if err != nil {
			return nil, err
		}
		files[role] = append(files[role], file)
	}
	for _, role := range []string{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets} {
		if len(files[role]) == 0 && generate != "" {
			file := filepath.Join(generate, role+".pem")
			err := sign.Generate(file)
			if errors.Is(err, os.ErrExist) {
				return nil, fmt.Errorf("%w; choose another directory, or trust that key with --trust %s=%s", err, role, file)
			}
			if err != nil {
				return nil, err
			}
			files[role] = []string{file}
			signer.files = append(signer.files, file)
		}
		added, err := addKeys(role, files[role])
		if err != nil {
			return nil, err
		}
		if len(added) == 0 {
			return nil, fmt.Errorf("role %s has no key: give one with --trust, or --generate", role)
		}
		changes = append(changes, added...)
	}
	return append(changes, limits...), nil
}

// roleLimits are the thresholds and lifetimes of roles, ROLE=VALUE each.
func roleLimits(thresholds, lifetimes []string) (changes []tufrepo.Change, err error) {
	for _, t := range thresholds {
		role, value, err := assignment(t)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, fmt.Errorf("--threshold %s: want ROLE=N, a role and a number", t)
		}
		changes = append(changes, tufrepo.SetThreshold(role, n))
	}
	for _, l := range lifetimes {
		role, value, err := assignment(l)
		if err != nil {
			return nil, err
		}
		d, err := days(value)
		if err != nil {
			return nil, err
		}
		changes = append(changes, tufrepo.SetLifetime(role, d))
	}
	return changes, nil
}

func assignment(s string) (role, value string, err error) {
	role, value, ok := strings.Cut(s, "=")
	if !ok || role == "" || value == "" {
		return "", "", fmt.Errorf("%q is not of the form ROLE=VALUE", s)
	}
	return role, value, nil
}

// days parses a --lifetime, which may be in days.
func days(s string) (d time.Duration, err error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var v uint64
		v, err = strconv.ParseUint(n, 10, 16)
		d = time.Duration(v) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(s)
	}
	if err != nil {
		return 0, fmt.Errorf("--lifetime %q: want a time such as 7d or 12h", s)
	}
	return d, nil
}

func newTUFAddKeyCmd() *cobra.Command {
	var threshold int
	cmd := changing(&cobra.Command{
		Use:     "add-key REPOSITORY ROLE KEYFILE...",
		Short:   "Trust more keys with a role",
		Example: `  sealboot tuf add-key repo root bob.pub carol.pub --threshold 2 --key root.pem`,
		Args:    cobra.MinimumNArgs(3),
	}, func(args []string) ([]tufrepo.Change, error) {
		changes, err := addKeys(args[1], args[2:])
		if threshold > 0 {
			changes = append(changes, tufrepo.SetThreshold(args[1], threshold))
		}
		return changes, err
	})
	cmd.Flags().IntVar(&threshold, "threshold", 0, "so many keys must sign from now on; 0 leaves it as it is")
	return cmd
}

func newTUFRotateCmd() *cobra.Command {
	var old, fresh []string
	cmd := changing(&cobra.Command{
		Use:   "rotate REPOSITORY ROLE",
		Short: "Replace keys of a role",
		Long: `Replace keys of a role. What the old keys had signed is signed anew, so give the
new private keys too. An old key is a key file or an identifier.`,
		Example: `  sealboot tuf rotate repo timestamp --old timestamp.pem --new timestamp-2.pem --key root.pem --key timestamp-2.pem`,
		Args:    cobra.ExactArgs(2),
	}, func(args []string) ([]tufrepo.Change, error) {
		if len(old)+len(fresh) == 0 {
			return nil, errors.New("nothing to replace: give --old, --new or both")
		}
		var changes []tufrepo.Change
		for _, o := range old {
			if _, pub, err := tufrepo.ReadKey(o); err == nil {
				changes = append(changes, tufrepo.RemovePublicKey(args[1], pub))
			} else {
				changes = append(changes, tufrepo.RemoveKey(args[1], o))
			}
		}
		added, err := addKeys(args[1], fresh)
		return append(changes, added...), err
	})
	cmd.Flags().StringArrayVar(&old, "old", nil, "take this key away; may be repeated")
	cmd.Flags().StringArrayVar(&fresh, "new", nil, "trust the key in this file; may be repeated")
	return cmd
}

func newTUFDelegateCmd() *cobra.Command {
	var d tufrepo.Delegation
	var trust []string
	cmd := changing(&cobra.Command{
		Use:   "delegate REPOSITORY ROLE",
		Short: "Let other keys publish targets of some names",
		Long: `Let other keys publish targets of some names. The role's name has up to 128 letters,
digits, "-" and "_", so that every web server can serve it.`,
		Example: `  sealboot tuf delegate repo shops --path 'shops/*' --trust shops.pub --key targets.pem --key snapshot.pem --key timestamp.pem`,
		Args:    cobra.ExactArgs(2),
	}, func(args []string) ([]tufrepo.Change, error) {
		pubs, err := publicKeys(trust)
		d.Name, d.Keys = args[1], pubs
		return []tufrepo.Change{tufrepo.Delegate(d)}, err
	})
	f := cmd.Flags()
	f.StringVar(&d.Delegator, "delegator", tuf.RoleTargets, "the role that delegates")
	f.StringArrayVar(&d.Paths, "path", nil, "names that the role may list, as a glob pattern; may be repeated")
	f.StringArrayVar(&trust, "trust", nil, "trust the key in this file with the role; may be repeated")
	f.IntVar(&d.Threshold, "threshold", 1, "so many keys must sign")
	f.BoolVar(&d.Terminating, "terminating", false, "no other role is asked for these names")
	require(cmd, "path", "trust")
	return cmd
}

func newTUFConsistentCmd() *cobra.Command {
	return changing(&cobra.Command{
		Use:   "consistent REPOSITORY",
		Short: "Give a repository of the plain layout consistent snapshots",
		Long: `Give a repository of the plain layout, which another tool has made, consistent
snapshots: names with a version or a digest. Nothing that is published is replaced
from then on, so that a target can change its content in one step. Devices follow
by the new root.`,
		Example: `  sealboot tuf consistent repo --key root.pem`,
		Args:    cobra.ExactArgs(1),
	}, func([]string) ([]tufrepo.Change, error) { return []tufrepo.Change{tufrepo.Consistent()}, nil })
}

func newTUFKeyIDCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "key-id KEYFILE...",
		Short: "Print the identifiers by which other commands name keys",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pubs, err := publicKeys(args)
			if err != nil {
				return err
			}
			for i, pub := range pubs {
				_, id, err := sign.PublicKey(pub)
				if err != nil {
					return fmt.Errorf("%s: %w", args[i], err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", id, args[i])
			}
			return nil
		},
	}
}
