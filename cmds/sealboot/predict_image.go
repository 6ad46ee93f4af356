package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/boot/base/platform"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/cmds/internal/loader"
	"github.com/sealboot/sealboot/measure/event"
)

// imageFlags say which image to predict.
type imageFlags struct {
	site, name, out, platform, ca string
	version                       uint64
	numbered                      bool // the version is given
	plainHTTP                     bool
}

func newPredictImageCmd() *cobra.Command {
	var o imageFlags
	cmd := &cobra.Command{
		Use:   "image [REF]",
		Short: "Predict what a loader measures for an operating system image into PCR 12",
		Long: `Predict what a loader of the site measures for an image, by fetching and converting it
as the loader does. Where an image comes from is not measured into PCR 12, so the
reference holds for every registry, repository or medium that has the image.

Without REF the site config's own source is asked. The site config matters: its
part of the command line is measured.

The reference gets the version that the image was published with. Where nothing
vouches for it (REF is a tag, and nothing is signed), --image-version confirms it.`,
		Example: `  sealboot predict image --site site.json --name os-1.4 --image-version 14 -o os-1.4.json registry.example/edge/os:1.4`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.numbered = cmd.Flags().Changed("image-version")
			doc, err := o.predict(cmd.Context(), args)
			if err != nil {
				return err
			}
			return writeDocument(o.out, doc)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.site, "site", "site.json", "the site config of the loaders that will boot it")
	f.StringVar(&o.name, "name", "", "the document's name")
	f.StringVar(&o.platform, "platform", "", "platform of the machines that will boot it, as in linux/arm64, which also picks from an image index; empty means this machine's")
	f.Uint64Var(&o.version, "image-version", 0, "the image's version for the rollback floor, which must be the one that it was published with, if it has one")
	f.StringVar(&o.ca, "ca", "", "file with the CA certificates of REF's registry (PEM); empty means the system's")
	f.BoolVar(&o.plainHTTP, "plain-http", false, "fetch REF without TLS")
	f.StringVarP(&o.out, "output", "o", "", "file to write; empty means standard output")
	require(cmd, "name")
	return cmd
}

func (o *imageFlags) predict(ctx context.Context, args []string) (*policy.Image, error) {
	raw, site, err := readSite(o.site)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 && (o.platform != "" || o.ca != "" || o.plainHTTP) {
		return nil, errors.New("--platform, --ca and --plain-http are about REF; without one the site config says all that")
	}
	// Loaders of this site compare the version that is signed with an image.
	compared := slices.ContainsFunc(site.Sources, func(s config.Source) bool { return s.Type != config.SourceTUF && s.Vouched() })
	if o.platform != "" {
		if _, err := platform.Parse(o.platform); err != nil {
			return nil, fmt.Errorf("--platform: %w", err)
		}
	}
	if len(args) == 1 {
		var ca []byte
		if o.ca != "" {
			if ca, err = os.ReadFile(o.ca); err != nil {
				return nil, fmt.Errorf("--ca: %w", err)
			}
		}
		site.Sources = []config.Source{{Type: config.SourceOCI, Ref: args[0], CA: string(ca), PlainHTTP: o.plainHTTP, Platform: o.platform}}
	}
	m, err := loader.New(loader.Options{
		Site: site, SiteRaw: raw, NoNetwork: true,
		Console: console.New(console.Options{Out: os.Stderr, Lines: !term.IsTerminal(int(os.Stderr.Fd()))}),
	})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	plan, err := m.DryRun(ctx)
	fmt.Fprintln(os.Stderr) // the console may be in the middle of a line
	if err != nil {
		return nil, loader.Hint(err, "--ca", "--plain-http")
	}
	version, err := o.imageVersion(plan, compared)
	if err != nil {
		return nil, err
	}
	return policy.NewImage(o.name, plan.Ref, version, event.Descriptor{Kind: plan.Kind, Artifacts: plan.Artifacts}, predictedBanks)
}

// imageVersion is the version that the reference says. attestd tells a device that
// the version has run well on it, and the device then compares the image's own: the
// two must not differ.
func (o *imageFlags) imageVersion(plan *loader.Plan, compared bool) (uint64, error) {
	switch {
	case o.numbered && plan.Version != 0 && o.version != plan.Version:
		return 0, fmt.Errorf("--image-version %d: %s was published as version %d", o.version, plan.Ref, plan.Version)
	case !o.numbered && plan.Version != 0 && !plan.Vouched:
		return 0, fmt.Errorf("%s says that it is version %d, and nothing vouches for that: name it by its digest, or confirm it with --image-version %d",
			plan.Ref, plan.Version, plan.Version)
	case o.version != 0 && plan.Version == 0 && compared:
		return 0, fmt.Errorf("--image-version %d: %s was published without a version, and loaders of this site would refuse it once that "+
			"version was reported healthy: publish it with --image-version %d", o.version, plan.Ref, o.version)
	case plan.Version != 0:
		return plan.Version, nil
	}
	return o.version, nil
}
