// Command sealboot is the operator's tool: it builds loaders and images, predicts
// what they will measure, enrols devices, and runs all of it in virtual machines.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	os.Exit(run(ctx, newRootCmd(), os.Stderr))
}

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell has it
)

// run executes the command line and returns the exit code. Who called a command
// wrongly is shown how it is called.
func run(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	var started bool
	watch(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "sealboot:", strings.TrimRight(err.Error(), "\n"))
	if ctx.Err() != nil {
		return exitInterrupted
	}
	if started {
		return exitFailed
	}
	usage := cmd.UseLine()
	if cmd.HasSubCommands() {
		usage = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(stderr, "usage: %s\nMore: %s --help\n", usage, cmd.CommandPath())
	return exitUsage
}

// watch notes when one of the commands below cmd starts: its command line was right.
func watch(cmd *cobra.Command, started *bool) {
	if body := cmd.RunE; body != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return body(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		watch(c, started)
	}
}

// group makes a command of commands say so when it is given the name of none.
// Cobra does that for the root alone, and calls the rest a success.
func group(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		group(c)
	}
	if !cmd.HasSubCommands() || !cmd.HasParent() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			return fmt.Errorf("say what to do: %s", strings.Join(names, ", "))
		}
		err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w\n\nDid you mean this?\n\t%s", err, strings.Join(near, "\n\t"))
		}
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // or cobra asks for no arguments
}

// requireSource says where Sealboot's sources are needed and dir does not hold them.
func requireSource(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return fmt.Errorf("%s is not a checkout of Sealboot: run this in one, or name it with --source DIR", dir)
	}
	return nil
}

// oneOf completes a flag to one of a few values.
func oneOf(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this program
	}
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealboot",
		Short: "Build, publish, predict and run measured network boots",
		Long: `Sealboot boots machines over the network into an operating system that is
verified, measured into the TPM, and unlocked only where it should be.

This tool works on the operator's side: on build machines, on provisioning
stations and, with "sealboot vm", in virtual machines.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newBuildCmd(),
		newSiteCmd(),
		newPublishCmd(),
		newCopyCmd(),
		newTUFCmd(),
		newPredictCmd(),
		newPolicyCmd(),
		newEnrolCmd(),
		newDeviceCmd(),
		newVMCmd(),
		newLabCmd(),
	)
	group(root)
	return root
}
