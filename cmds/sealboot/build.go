package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/initramfs"
)

func newBuildCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build loaders, and show their sizes",
	}
	cmd.AddCommand(newBuildLoaderCmd(), newBuildRecorderCmd(), newBuildSizeCmd())
	return cmd
}

func newBuildLoaderCmd() *cobra.Command {
	var flags buildFlags
	var site, version string
	cmd := &cobra.Command{
		Use:   "loader",
		Short: "Build the loader of a site: kernel, initramfs, UKI and boot disk",
		Long: `Build the loader that machines of one site boot: a unified kernel image with the
site config inside, and a disk image that firmware boots it from.

The kernel is built once and kept in the user's cache directory. The same
sources, tools, site config and version give the same bytes.

The loader's version tells people which one a machine runs: it is on the console,
in what attestd records, and proves nothing. It names the Git commit of the
sources unless --version does.`,
		Example: `  sealboot build loader --board qemu-x86_64 --site site.json -o loader
  sealboot vm run --boot loader/loader.img`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.build(cmd, func() (initramfs.Options, error) {
				siteJSON, conf, err := readSite(site)
				if err != nil {
					return initramfs.Options{}, err
				}
				warnOpen(cmd.ErrOrStderr(), site, conf.Cmdline)
				version := cmp.Or(version, initramfs.SourceVersion(cmd.Context(), flags.source))
				return initramfs.Loader(flags.source, version, siteJSON), nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&site, "site", "site.json", "the site config to put inside")
	f.StringVar(&version, "version", "", "what the loader calls itself; the commit of the sources if empty, and \"devel\" outside of a Git repository")
	flags.add(cmd, "loader")
	return cmd
}

// buildFlags are what all loaders are built with.
type buildFlags struct {
	board, source, out string
	verbose            bool
}

func (b *buildFlags) add(cmd *cobra.Command, out string) {
	f := cmd.Flags()
	f.StringVar(&b.board, "board", board.QEMU().Name, "the machine to build for")
	f.StringVar(&b.source, "source", ".", "the directory of Sealboot's sources")
	f.StringVarP(&b.out, "output", "o", out, "the directory for the result")
	f.BoolVarP(&b.verbose, "verbose", "v", false, "show the output of the compilers")
	oneOf(cmd, "board", boardNames()...)
}

// build makes a loader and prints its sizes. What is inside is asked for in a checkout only.
func (b *buildFlags) build(cmd *cobra.Command, inside func() (initramfs.Options, error)) error {
	machine, err := board.Find(b.board)
	if err != nil {
		return err
	}
	if err := requireSource(b.source); err != nil {
		return err
	}
	options := board.Options{Out: b.out, Step: func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "building", s) }}
	if options.Initramfs, err = inside(); err != nil {
		return err
	}
	if b.verbose {
		options.Log = cmd.ErrOrStderr()
	}
	l, err := machine.Build(cmd.Context(), options)
	if err != nil {
		return err
	}
	return printSizes(cmd.OutOrStdout(), l)
}

// readSite reads a site config and checks it as a loader will.
func readSite(file string) (raw []byte, site *config.Site, err error) {
	if raw, err = os.ReadFile(file); err != nil {
		return nil, nil, fmt.Errorf("site config (make one with \"sealboot site config\"): %w", err)
	}
	if site, err = config.ParseSite(raw); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return raw, site, nil
}

func boardNames() []string {
	var names []string
	for _, b := range board.All() {
		names = append(names, b.Name)
	}
	return names
}

func newBuildRecorderCmd() *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "recorder",
		Short: "Build a dummy loader that prints the platform firmware's event log",
		Long: `Build a boot disk that prints the platform firmware's event log on the console and
switches the machine off. Boot one machine of a model from it, capture its console, and
make the model's firmware profile of that with "sealboot predict profile".`,
		Example: `  sealboot build recorder --board qemu-x86_64 -o recorder`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.build(cmd, func() (initramfs.Options, error) { return initramfs.Recorder(flags.source), nil })
		},
	}
	flags.add(cmd, "recorder")
	return cmd
}

func newBuildSizeCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "size [DIRECTORY]",
		Short:   "Show the sizes of a built loader, and fail when it is over its budget",
		Example: `  sealboot build size loader`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "loader"
			if len(args) == 1 {
				dir = args[0]
			}
			l, err := board.Open(dir)
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w; build one with \"sealboot build loader\"", err)
			}
			if err != nil {
				return err
			}
			return printSizes(cmd.OutOrStdout(), l)
		},
	}
}

// printSizes prints the parts of a loader and returns an error when they are
// over the budget.
func printSizes(w io.Writer, l *board.Loader) error {
	kib := func(n int64) float64 { return float64(n) / 1024 }
	total := l.Kernel.Size + l.Initramfs.Size
	if l.Version != "" {
		fmt.Fprintf(w, "version    %s\n", l.Version)
	}
	fmt.Fprintf(w, "kernel     %9.1f KiB  %s\n", kib(l.Kernel.Size), l.Release)
	fmt.Fprintf(w, "initramfs  %9.1f KiB\n", kib(l.Initramfs.Size))
	fmt.Fprintf(w, "together   %9.1f KiB  of %.1f (%.0f %%)\n", kib(total), kib(board.Budget), 100*float64(total)/board.Budget)
	fmt.Fprintf(w, "UKI        %9.1f KiB  sha256:%s\n", kib(l.UKI.Size), l.UKI.SHA256)
	return l.CheckBudget()
}
