package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/boot/base/platform"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/image"
	"github.com/sealboot/sealboot/measure/plaintext"
)

// tufImage are the flags that make a target bootable.
type tufImage struct {
	custom image.Custom
	linux  image.Linux
	oci    string
}

func newTUFAddCmd() *cobra.Command {
	var signer tufSigner
	var img tufImage
	var role string
	cmd := &cobra.Command{
		Use:   "add REPOSITORY NAME [FILE]",
		Short: "Publish a file, or an image that can be booted",
		Long: `Publish a file under a name, or with --kind an image that can be booted:

  uki                 the file is the image
  bundle              the file is an OCI layout in a tar, with an image of any kind, also a
                      disk image: for devices without a registry
  linux               --kernel, --initrd and --dtb name targets that are published already
  oci                 the image is in a registry, pinned by --oci`,
		Example: `  sealboot tuf add repo os/12/vmlinuz vmlinuz --key targets.pem --key snapshot.pem --key timestamp.pem
  sealboot tuf add repo os --kind linux --image-version 12 --kernel os/12/vmlinuz --initrd os/12/initrd -k ...
  sealboot tuf add repo os --kind oci --image-version 12 --oci registry.example/os@sha256:... -k ...`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := img.check(cmd); err != nil {
				return err
			}
			target := tufrepo.Target{Role: role, Name: args[1]}
			if len(args) == 3 {
				target.File = args[2]
			}
			dir, err := os.MkdirTemp("", "sealboot-tuf")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			if err := img.complete(&target, dir); err != nil {
				return err
			}
			return signer.in(cmd, args[0], func(r *tufrepo.Repo) error { return signer.apply(cmd, r, tufrepo.AddTarget(target)) })
		},
	}
	signer.flag(cmd)
	f := cmd.Flags()
	f.StringVar(&role, "role", tuf.RoleTargets, "the role that lists the target")
	f.StringVar(&img.custom.Kind, "kind", "", "linux, uki, bundle or oci; empty for a plain file")
	f.Uint64Var(&img.custom.Version, "image-version", 0, "the version of the image, which devices do not go below")
	f.StringVar(&img.custom.Architecture, "arch", runtime.GOARCH, "the machines that it is for")
	f.StringVar(&img.custom.Cmdline, "cmdline", "", "the kernel's command line")
	f.StringVar(&img.custom.ReferenceValues, "reference-values", "", "the target with the image's reference values")
	f.StringVar(&img.linux.Kernel, "kernel", "", "the target that is the kernel")
	f.StringVar(&img.linux.Initrd, "initrd", "", "the target that is the initrd")
	f.StringVar(&img.linux.DTB, "dtb", "", "the target that is the device tree")
	f.StringVar(&img.oci, "oci", "", "the image in a registry: `REPOSITORY@sha256:...`")
	return cmd
}

// check refuses flags that say something of an image where none is.
func (i *tufImage) check(cmd *cobra.Command) error {
	kinds := map[string][]string{
		"image-version": {image.KindLinux, image.KindUKI, image.KindBundle, image.KindOCI},
		"cmdline":       {image.KindLinux, image.KindUKI},
		"kernel":        {image.KindLinux}, "initrd": {image.KindLinux}, "dtb": {image.KindLinux},
		"oci": {image.KindOCI},
	}
	kinds["arch"], kinds["reference-values"] = kinds["image-version"], kinds["image-version"]
	for _, flag := range slices.Sorted(maps.Keys(kinds)) {
		if cmd.Flags().Changed(flag) && !slices.Contains(kinds[flag], i.custom.Kind) {
			return fmt.Errorf("--%s goes with --kind %s", flag, strings.Join(kinds[flag], ", "))
		}
	}
	if i.custom.Kind != "" && i.custom.Version == 0 {
		return errors.New("an image needs an --image-version of at least 1")
	}
	if i.custom.Kind != "" {
		if err := checkImageVersion(i.custom.Version); err != nil {
			return fmt.Errorf("--image-version %d: %w", i.custom.Version, err)
		}
	}
	if i.custom.Kind != "" {
		if err := platform.CheckArchitecture(i.custom.Architecture); err != nil {
			return fmt.Errorf("--arch: %w", err)
		}
	}
	return nil
}

// complete gives the target its custom part, and its content if no file has it.
func (i *tufImage) complete(t *tufrepo.Target, dir string) error {
	content, err := i.content()
	if err != nil {
		return err
	}
	if (content == nil) == (t.File == "") {
		return fmt.Errorf("a target has a FILE, or is of kind %s or %s", image.KindLinux, image.KindOCI)
	}
	if content != nil {
		t.File = filepath.Join(dir, "content")
		if err := os.WriteFile(t.File, content, 0o600); err != nil {
			return err
		}
	}
	if i.custom.Kind == "" {
		return nil
	}
	if err := i.custom.Validate(); err != nil {
		return err
	}
	t.Custom, err = json.Marshal(map[string]image.Custom{"sealboot": i.custom})
	return err
}

// content is what the target consists of if the image is somewhere else.
func (i *tufImage) content() ([]byte, error) {
	switch i.custom.Kind {
	case image.KindLinux:
		i.linux.Cmdline, i.custom.Cmdline = i.custom.Cmdline, ""
		if err := i.linux.Validate(); err != nil {
			return nil, err
		}
		return json.Marshal(i.linux)
	case image.KindOCI:
		repository, digest, ok := strings.Cut(i.oci, "@")
		if !ok {
			return nil, fmt.Errorf("--oci %q is not of the form REPOSITORY@DIGEST", i.oci)
		}
		i.custom.OCI = &image.OCI{Repository: repository, Digest: digest}
		return []byte(i.oci + "\n"), nil
	}
	return nil, nil
}

func newTUFRemoveCmd() *cobra.Command {
	var role string
	cmd := changing(&cobra.Command{
		Use:   "remove REPOSITORY NAME",
		Short: "Stop publishing a target",
		Args:  cobra.ExactArgs(2),
	}, func(args []string) ([]tufrepo.Change, error) {
		return []tufrepo.Change{tufrepo.RemoveTarget(role, args[1])}, nil
	})
	cmd.Flags().StringVar(&role, "role", tuf.RoleTargets, "the role that lists the target")
	return cmd
}

func newTUFSignCmd() *cobra.Command {
	var signer tufSigner
	cmd := changingBy(&signer, &cobra.Command{
		Use:   "sign REPOSITORY",
		Short: "Add signatures to the draft, and publish it when it has enough",
		Long: `Add signatures to the draft, and publish it when it has enough. The difference to
what is published is shown first, as "tuf diff" does. A draft that comes from
another machine is signed without a question only if --draft names it.`,
		Example: `  sealboot tuf sign repo --key root.pem
  sealboot tuf sign repo --key root.pem --yes --draft sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef`,
		Args: cobra.ExactArgs(1),
	}, func([]string) ([]tufrepo.Change, error) { return nil, nil })
	cmd.Flags().StringVar(&signer.draft, "draft", "", "sign the draft that has this digest and no other, as \"tuf diff\" prints it")
	return cmd
}

func newTUFDiscardCmd() *cobra.Command {
	var operator tufOperator
	cmd := &cobra.Command{
		Use:   "discard REPOSITORY",
		Short: "Forget the draft",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return operator.in(cmd, args[0], (*tufrepo.Repo).DropDraft)
		},
	}
	operator.flag(cmd)
	return cmd
}

func newTUFRefreshCmd() *cobra.Command {
	var signer tufSigner
	var lifetime string
	cmd := &cobra.Command{
		Use:   "refresh REPOSITORY [ROLE...]",
		Short: "Sign roles anew before they expire; the timestamp if none is named",
		Long: `Sign roles anew before they expire, or after that; the timestamp if none is named.
A draft that waits for signatures is not touched. With --yes it is for cron: what
is published is verified first, and nothing but these roles and what names their
versions is signed.`,
		Example: `  sealboot tuf refresh repo --key timestamp.pem --yes
  sealboot tuf refresh repo timestamp snapshot --lifetime 120d --key timestamp.pem --key snapshot.pem`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := refreshChanges(args[1:], lifetime)
			if err != nil {
				return err
			}
			keys, err := signer.keys()
			if err != nil {
				return err
			}
			return signer.in(cmd, args[0], func(r *tufrepo.Repo) error {
				status, err := r.Renew(cmd.Context(), time.Now(), keys, changes...)
				if err != nil {
					return err
				}
				return printTUFStatus(cmd.OutOrStdout(), status)
			})
		},
	}
	signer.flag(cmd)
	cmd.Flags().StringVar(&lifetime, "lifetime", "", "they are valid for so long from now on, such as 7d or 12h; as before if empty")
	return cmd
}

func refreshChanges(roles []string, lifetime string) ([]tufrepo.Change, error) {
	if len(roles) == 0 {
		roles = []string{tuf.RoleTimestamp}
	}
	var changes []tufrepo.Change
	for _, role := range roles {
		change := tufrepo.Refresh(role)
		if lifetime != "" {
			d, err := days(lifetime)
			if err != nil {
				return nil, err
			}
			change = tufrepo.SetLifetime(role, d)
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func newTUFVerifyCmd() *cobra.Command {
	var operator tufOperator
	var root string
	cmd := &cobra.Command{
		Use:   "verify REPOSITORY",
		Short: "Follow the repository as a device would, and read every target",
		Long: `Follow the repository as a device would, and read every target: from the root and
above the versions that this machine remembers ("tuf trust"), or from another root
alone.`,
		Example: `  sealboot tuf verify repo
  sealboot tuf verify /srv/www --root 1.root.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := operator.verify(cmd, args[0], root)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ROLE\tVERSION\tEXPIRES\tTARGETS")
			for _, name := range slices.Sorted(maps.Keys(report.Roles)) {
				r := report.Roles[name]
				fmt.Fprintf(w, "%s\t%d\t%s\t%d\n", plaintext.Escape(name), r.Version, r.Expires.Format(time.RFC3339), r.Targets)
			}
			fmt.Fprintf(w, "\nThe root that devices measure: sha256:%x\n", report.Root)
			return w.Flush()
		},
	}
	operator.flag(cmd)
	cmd.Flags().StringVar(&root, "root", "", "the root that devices trust; the one that this machine remembers if empty")
	cmd.MarkFlagsMutuallyExclusive("root", "state")
	return cmd
}

func (o *tufOperator) verify(cmd *cobra.Command, dir, root string) (report tufrepo.Report, err error) {
	if root != "" {
		trusted, err := os.ReadFile(root)
		if err != nil {
			return report, fmt.Errorf("read the root to trust: %w", err)
		}
		return tufrepo.Verify(cmd.Context(), dir, trusted, time.Now())
	}
	err = o.in(cmd, dir, func(r *tufrepo.Repo) error {
		report, err = r.Verify(cmd.Context(), time.Now())
		return err
	})
	return report, err
}

func newTUFExportCmd() *cobra.Command {
	var operator tufOperator
	cmd := &cobra.Command{
		Use:   "export REPOSITORY DIRECTORY",
		Short: "Copy what is published to a directory for a web server or a bucket",
		Long: `Copy what is published to a directory for a web server or a bucket, once all of it
verifies.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return operator.in(cmd, args[0], func(r *tufrepo.Repo) error { return r.Export(cmd.Context(), args[1]) })
		},
	}
	operator.flag(cmd)
	return cmd
}
