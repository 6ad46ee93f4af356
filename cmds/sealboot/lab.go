package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealboot/sealboot/qemu/lab"
)

func newLabCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Try everything on this machine: a site, its servers, and a virtual machine that boots",
	}
	cmd.AddCommand(newLabRunCmd())
	return cmd
}

func newLabRunCmd() *cobra.Command {
	var o lab.Options
	var tamper string
	var from []string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Build a site from nothing, boot a machine of it twice, and show what was predicted and found",
		Long: `Build a loader and an operating system, set up a site with its attestd and a registry,
predict what a machine of it will measure, enrol a virtual machine by its TPM, and
boot it twice: the second boot finds what the first has written to an encrypted volume.

With --tamper one thing is changed after everything was predicted. The run then
fails, and the exit code is not 0; it ends with whether it failed as it must.`,
		Example: `  sealboot lab run
  sealboot lab run --from tuf,media
  sealboot lab run --tamper kernel`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Tamper, o.Out = lab.Tamper(tamper), cmd.OutOrStdout()
			for _, f := range from {
				if !slices.Contains(lab.BootSources(), lab.BootSource(f)) {
					return fmt.Errorf("--from %s: choose of %v", f, lab.BootSources())
				}
				o.Boot = append(o.Boot, lab.BootSource(f))
			}
			if tamper != "" && !slices.Contains(lab.Tampers(), o.Tamper) {
				return fmt.Errorf("--tamper %s: choose one of %v", tamper, lab.Tampers())
			}
			if o.Boots < 1 {
				return fmt.Errorf("--boots %d: want at least 1", o.Boots)
			}
			if err := requireSource(o.Source); err != nil {
				return err
			}
			l, err := lab.Run(cmd.Context(), o)
			if err != nil {
				return explain(err, o)
			}
			defer l.Close()
			if term.IsTerminal(int(os.Stdout.Fd())) {
				fmt.Fprintf(o.Out, "\nThe site's status page is %s until you press Enter.\n", l.StatusPage())
				waitForEnter(cmd.Context(), cmd.InOrStdin())
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Source, "source", ".", "the directory of Sealboot's sources")
	f.StringVar(&o.Dir, "dir", "build/run", "the directory for everything that the run makes; emptied first")
	f.StringVar(&tamper, "tamper", "", fmt.Sprintf("change one thing, which must be noticed: %v", lab.Tampers()))
	f.StringSliceVar(&from, "from", []string{string(lab.FromRegistry)}, fmt.Sprintf("where the machine boots from, in this order: %v", lab.BootSources()))
	f.StringVar(&o.Banks, "banks", "", "the TPM's active PCR banks, as in sha256,sha384")
	f.IntVar(&o.Boots, "boots", 2, "how often the machine is booted")
	f.IntVar(&o.Memory, "memory", 3072, "the machine's memory in MiB")
	oneOf(cmd, "tamper", names(lab.Tampers())...)
	oneOf(cmd, "from", names(lab.BootSources())...)
	return cmd
}

func names[S ~string](all []S) []string {
	var out []string
	for _, s := range all {
		out = append(out, string(s))
	}
	return out
}

// waitForEnter returns when a line was typed, or when ctx ends. It is for a
// terminal: the reading goroutine ends with the program.
func waitForEnter(ctx context.Context, in io.Reader) {
	typed := make(chan struct{})
	go func() {
		if _, err := bufio.NewReader(in).ReadString('\n'); err == nil {
			close(typed)
		}
	}()
	select {
	case <-typed:
	case <-ctx.Done():
	}
}

// explain says where more is to be read, and of a tampered run whether it failed
// as it must. It is an error in any case.
func explain(err error, o lab.Options) error {
	var stage *lab.StageError
	if !errors.As(err, &stage) { // it did not begin
		return err
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted in stage %q; nothing of the run is left running", stage.Stage)
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w\n\"make deps\" installs what is missing", err)
	}
	var refused *lab.RefusedError
	if !errors.As(err, &refused) { // which names the console
		err = fmt.Errorf("%w\nConsoles and logs of the run are in %s", err, o.Dir)
	}
	t := o.Tamper
	if t == "" {
		return err
	}
	if lab.RefusedAsItMust(err, t) {
		return fmt.Errorf("%w\nThis is the refusal that tampering with %q must end in", err, t)
	}
	where, reason := t.Refusal()
	return errors.Join(err, fmt.Errorf("tampering with %q had to end in stage %s for the reason %q", t, where, reason))
}
