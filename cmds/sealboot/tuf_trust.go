package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

// answerWait is for how long a question waits. The repository is locked meanwhile,
// and the refresh of its timestamp has to come by.
const answerWait = 10 * time.Minute

// errUnconfirmed: the operator has not said yes to what would be signed.
var errUnconfirmed = errors.New("nothing was signed")

// tufOperator are the flags that say who acts on a repository.
type tufOperator struct {
	state string
	yes   bool
	draft string
}

func (o *tufOperator) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.state, "state", "", "the `directory` that remembers the trusted root and the versions seen; one of the user's if empty")
}

func (o *tufOperator) confirmFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "sign without asking, for scripts; the difference is printed all the same")
}

// in runs f in a repository that is there.
func (o *tufOperator) in(cmd *cobra.Command, dir string, f func(*tufrepo.Repo) error) error {
	if !tufrepo.Exists(dir) {
		return fmt.Errorf("there is no repository in %s; \"sealboot tuf init %s\" begins one", dir, dir)
	}
	return o.locked(cmd, dir, f)
}

func (o *tufOperator) locked(cmd *cobra.Command, dir string, f func(*tufrepo.Repo) error) error {
	state := o.state
	if state == "" {
		var err error
		if state, err = tufrepo.DefaultState(dir); err != nil {
			return err
		}
	}
	r, err := tufrepo.Open(cmd.Context(), dir, tufrepo.Operator{State: state, Confirm: func(d tufrepo.Diff) error { return o.confirm(cmd, d) }})
	if err != nil {
		return err
	}
	defer r.Close()
	return f(r)
}

// confirm shows what would be signed and asks for it.
func (o *tufOperator) confirm(cmd *cobra.Command, d tufrepo.Diff) error {
	if _, err := io.WriteString(cmd.OutOrStdout(), d.String()); err != nil {
		return err
	}
	if o.draft != "" && o.draft != d.Draft {
		return fmt.Errorf("%w: the draft is not %s", errUnconfirmed, o.draft)
	}
	if o.yes && d.Foreign && o.draft == "" {
		return fmt.Errorf("%w: the draft comes from somewhere else, so --yes needs to know which one was looked at: --draft %s", errUnconfirmed, d.Draft)
	}
	if o.yes {
		return nil
	}
	if err := o.mayAsk(cmd); err != nil {
		return err
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Sign this? [y/N] ")
	ctx, cancel := context.WithTimeout(cmd.Context(), answerWait)
	defer cancel()
	line, err := readLine(ctx, cmd.InOrStdin())
	if err != nil {
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return fmt.Errorf("%w: the answer was no", errUnconfirmed)
	}
	return nil
}

// mayAsk refuses to go on where no question can be asked and --yes is not said.
func (o *tufOperator) mayAsk(cmd *cobra.Command) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !o.yes && (!ok || !term.IsTerminal(int(in.Fd()))) {
		return fmt.Errorf("%w: there is no terminal to ask on; --yes signs without a question", errUnconfirmed)
	}
	return nil
}

// readLine reads a line until ctx ends. The read itself cannot be ended; the
// process does that.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
		c <- answer{line, err}
	}()
	select {
	case a := <-c:
		return a.line, a.err
	case <-ctx.Done():
		return "", fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
}

func newTUFTrustCmd() *cobra.Command {
	var operator tufOperator
	var root, digest string
	cmd := &cobra.Command{
		Use:   "trust REPOSITORY",
		Short: "Say from which root a repository is verified on this machine, or show it",
		Long: `Say from which root a repository is verified on this machine before anything is
built on it. "tuf init" has done that where it ran. Everywhere else, and for a
repository of another tool, the root comes by a way of its own: as a file, or as
the digest that "tuf trust" prints on the first machine.
Without a root it shows what this machine trusts and has seen.`,
		Example: `  sealboot tuf trust repo --root 1.root.json
  sealboot tuf trust repo --root-digest sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  sealboot tuf trust repo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := namedRoot(cmd.Context(), args[0], root, digest)
			if err != nil {
				return err
			}
			return operator.in(cmd, args[0], func(r *tufrepo.Repo) error {
				if data != nil {
					if err := r.Begin(cmd.Context(), data); err != nil {
						return err
					}
				}
				return printTrust(cmd.OutOrStdout(), r)
			})
		},
	}
	operator.flag(cmd)
	cmd.Flags().StringVar(&root, "root", "", "trust the root in this `file`")
	cmd.Flags().StringVar(&digest, "root-digest", "", "trust the root in the repository that has this digest, sha256:...")
	cmd.MarkFlagsMutuallyExclusive("root", "root-digest")
	return cmd
}

// namedRoot is the root that a file or a digest names, or nil.
func namedRoot(ctx context.Context, dir, file, digest string) ([]byte, error) {
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the root to trust: %w", err)
		}
		return data, nil
	}
	if digest == "" {
		return nil, nil
	}
	value, ok := strings.CutPrefix(digest, "sha256:")
	sum, err := hex.DecodeString(value)
	if !ok || err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("--root-digest %q is not of the form sha256:HEX", digest)
	}
	return tufrepo.FindRoot(ctx, dir, [sha256.Size]byte(sum))
}

// printTrust says what this machine knows of a repository.
func printTrust(w io.Writer, r *tufrepo.Repo) error {
	t, err := r.Trust()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "trusts root %d, sha256:%x\n", t.RootVersion, t.RootSHA256)
	for _, role := range slices.Sorted(maps.Keys(t.Versions)) {
		fmt.Fprintf(&b, "has seen %+q %d\n", role, t.Versions[role])
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func newTUFDiffCmd() *cobra.Command {
	var operator tufOperator
	cmd := &cobra.Command{
		Use:   "diff REPOSITORY",
		Short: "Show what the draft would change of what is published",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return operator.in(cmd, args[0], func(r *tufrepo.Repo) error {
				d, err := r.Diff(cmd.Context(), time.Now())
				if err != nil {
					return err
				}
				if len(d.Roles) == 0 {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "there is no draft\n%s", d)
				} else {
					_, err = io.WriteString(cmd.OutOrStdout(), d.String())
				}
				return err
			})
		},
	}
	operator.flag(cmd)
	return cmd
}
