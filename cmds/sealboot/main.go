// Command sealboot is the operator's tool: it builds loaders and images, predicts
// what they will measure, enrols devices, and runs all of it in virtual machines.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRootCmd().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sealboot:", err)
		os.Exit(1)
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
	return root
}
