// Package cli is what commands made with cobra have in common: their exit codes, and what those are
// told who called one wrongly.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/cmds/internal/version"
)

// Exit codes.
const (
	Failed      = 1
	Usage       = 2
	Interrupted = 130 // as a shell has it
)

// Main runs the command line of the process until Ctrl-C or SIGTERM, and exits.
func Main(root *cobra.Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	os.Exit(Run(ctx, root, os.Stderr))
}

// Run executes the command line and returns the exit code. Who called a command
// wrongly is shown how it is called.
func Run(ctx context.Context, root *cobra.Command, stderr io.Writer) int {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Version = version.String()
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	group(root)
	var started bool
	watch(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "%s: %s\n", root.Name(), strings.TrimRight(err.Error(), "\n"))
	if ctx.Err() != nil {
		return Interrupted
	}
	if started {
		return Failed
	}
	usage := cmd.UseLine()
	if cmd.HasSubCommands() {
		usage = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(stderr, "usage: %s\nMore: %s --help\n", usage, cmd.CommandPath())
	return Usage
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
	cmd.DisableFlagsInUseLine = true
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
