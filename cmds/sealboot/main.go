// Command sealboot is the operator's tool: it builds loaders and images, predicts
// what they will measure, enrols devices, and runs all of it in virtual machines.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/cmds/internal/cli"
	"github.com/sealboot/sealboot/cmds/internal/guard"
)

func main() {
	if err := guard.NoCores(); err != nil { // most of its commands read keys
		fmt.Fprintln(os.Stderr, "sealboot:", err)
		os.Exit(cli.Failed)
	}
	cli.Main(newRootCmd())
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
	return root
}
