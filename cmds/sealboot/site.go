package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/boot/base/cmdline"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/measure/strict"
)

func newSiteCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "site",
		Short: "Create a site, the configuration of its loaders, and secrets for its devices; check its audit log",
	}
	cmd.AddCommand(newSiteInitCmd(), newSiteConfigCmd(), newSiteAuditCmd(), newSecretCmd())
	return cmd
}

const nextSteps = `Site %[1]s is in %[2]s. Next:

  attestd serve --dir %[2]s

  # Devices may ask to be let in; or enrol them: sealboot enrol --help
  sealboot device token --dir %[2]s first > join.token

  # What the devices start
  sealboot site config --dir %[2]s --oci REGISTRY/IMAGE:TAG --registry-ca FILE --join-token join.token > site.json
  sealboot build loader --site site.json

  # What is good: each hardware model, the loader, the image, the rules
  sealboot predict profile --help
  sealboot predict loader -o loader.json
  sealboot predict image --name os-1 --image-version 1 -o os-1.json
  sealboot policy rules --root-of-trust CLASS -o rules.json
  sealboot policy add --dir %[2]s MODEL.json loader.json os-1.json rules.json

  # Devices that have started and wait
  sealboot device list --dir %[2]s --state pending
  sealboot device allow --dir %[2]s DEVICE
`

func newSiteInitCmd() *cobra.Command {
	var dir, roots string
	var set site.Settings
	var byHash bool
	cmd := &cobra.Command{
		Use:   "init --dir DIR --name NAME --url https://HOST:PORT (--ek-roots FILE | --ek-hash-only)",
		Short: "Create the directory of a new site: its CA, keys, seal key and settings",
		Long: `Create the directory that makes a server the attestd of one site.

It holds the site's CA, the server key, the release key and the wrapped seal key: anyone who reads it owns the
site. Back it up as it is, kek.key apart from the rest.`,
		Example: `  sealboot site init --dir /var/lib/attestd --name shop-17 --url https://attestd.example:8443 --ek-roots tpm-makers.pem`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set.Endorsement = site.EndorsedByCertificate
			if byHash {
				set.Endorsement = site.EndorsedByHash
			}
			var text []byte
			if roots != "" {
				var err error
				if text, err = os.ReadFile(roots); err != nil {
					return fmt.Errorf("--ek-roots: %w", err)
				}
			} else if !byHash {
				return errors.New("say who vouches for TPMs: --ek-roots FILE with their makers' CA certificates, or --ek-hash-only")
			}
			err := site.Init(dir, set, text, time.Now)
			if errors.Is(err, site.ErrNoAnchors) {
				return fmt.Errorf("--ek-roots %s: want the CA certificates of TPM makers in PEM, found none; or vouch for TPMs yourself with --ek-hash-only", roots)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), nextSteps, set.Name, dir)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "directory to create")
	f.StringVar(&set.Name, "name", "", "name of the site, 1 to 63 of a-z 0-9 . -")
	f.StringVar(&set.URL, "url", "", "how devices reach attestd, https://HOST[:PORT]")
	f.StringVar(&set.Replica, "replica", "a", "name of this server's audit chain")
	f.StringVar(&set.Store, "store", "", "postgres:// URL (sslmode=verify-full, unless on this machine) or file of a store shared with other servers (default: a file in the directory)")
	f.StringVar(&roots, "ek-roots", "", "PEM file with the CA certificates of TPM makers")
	f.BoolVar(&byHash, "ek-hash-only", false, "trust no maker; an operator vouches for each TPM by its hash")
	require(cmd, "dir", "name", "url")
	cmd.MarkFlagsMutuallyExclusive("ek-roots", "ek-hash-only")
	return cmd
}

// require marks flags as required. A name that is no flag is a mistake in this program.
func require(cmd *cobra.Command, names ...string) {
	for _, n := range names {
		if err := cmd.MarkFlagRequired(n); err != nil {
			panic(err)
		}
	}
}

// A setting is an option of the operating system's kernel or init.
type setting struct{ name, value string }

// shut are the settings that shut out anyone who holds the machine.
//
// From outside of its image an operating system is to take nothing: no policy compares SMBIOS strings, QEMU's fw_cfg and
// EFI variables. systemd would take root's password and files from the first two, and a piece of command line, root's
// shell among it, from the variable SystemdOptions; for that one it has no switch but a kernel that shows no variables.
//
// And what fails ends in a reset. Who takes the disk away would be given root's shell by an initrd of initramfs-tools
// (panic) or dracut (rd), without a password and next to the handover. Who adds one, with a kernel of his own
// hibernating on it, would have that resumed by an initrd that was made on a machine with swap.
func shut() []setting {
	return []setting{
		{"systemd.import_credentials", "no"}, {"efi", "noruntime"},
		{"panic", "10"}, {"rd.shell", "0"}, {"rd.emergency", "reboot"}, {"hibernate", "no"},
	}
}

// unsaid are those about which a command line says nothing.
func unsaid(line string) (list []string) {
	options, _ := cmdline.Options(line) // what is wrong with it, the site config's check says
	for _, s := range shut() {
		said := func(option string) bool { return strings.HasPrefix(option, s.name+"=") }
		if !slices.ContainsFunc(options, said) {
			list = append(list, s.name+"="+s.value)
		}
	}
	return list
}

// closed adds them to a command line.
func closed(line string) string {
	return strings.TrimSpace(line + " " + strings.Join(unsaid(line), " "))
}

// warnOpen says what the command line of a site config leaves open.
func warnOpen(w io.Writer, file, line string) {
	if open := unsaid(line); len(open) > 0 {
		fmt.Fprintf(w, "warning: %s: the command line does not say %s, so that who holds a machine may tell its operating system more than was measured; \"sealboot site config --from\" adds it\n", file, strings.Join(open, " "))
	}
}

func newSiteConfigCmd() *cobra.Command {
	var dir, from string
	var oci []string
	var plainHTTP, media, lab bool
	var cmdline, registryCA, joinToken string
	cmd := &cobra.Command{
		Use:   "config --dir DIR [--from FILE] [--oci REF]...",
		Short: "Print the site config that loaders are built with",
		Long: `Print the site config: the site's name, keys and attestd address, and what to boot.

Sources come from flags, or from a site config given with --from, whose other fields are kept too. The result
is checked as the loader will check it.`,
		Example: `  sealboot site config --dir /var/lib/attestd --oci registry.example/edge/os:stable --registry-ca ca.pem > site.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := site.Load(dir, time.Now)
			if err != nil {
				return err
			}
			c := &config.Site{}
			if from != "" {
				text, err := os.ReadFile(from)
				if err != nil {
					return err
				}
				// It need not be complete: Marshal checks the result.
				if err := strict.Decode(text, c); err != nil {
					return fmt.Errorf("--from %s is not a site config: %w", from, err)
				}
			}
			var ca []byte
			if registryCA != "" {
				if ca, err = os.ReadFile(registryCA); err != nil {
					return fmt.Errorf("--registry-ca: %w", err)
				}
			}
			for _, ref := range oci {
				c.Sources = append(c.Sources, config.Source{Type: config.SourceOCI, Ref: ref, CA: string(ca), PlainHTTP: plainHTTP})
			}
			if media {
				c.Sources = append(c.Sources, config.Source{Type: config.SourceMedia})
			}
			if len(c.Sources) == 0 {
				return errors.New("nothing to boot from: give --oci REF, --media, or --from FILE with sources")
			}
			if cmdline != "" {
				c.Cmdline = cmdline
			}
			c.Cmdline = closed(c.Cmdline)
			c.Lab = c.Lab || lab
			if err := identify(c, s); err != nil {
				return err
			}
			if joinToken != "" {
				text, err := os.ReadFile(joinToken)
				if err != nil {
					return fmt.Errorf("--join-token (make one with \"sealboot device token\"): %w", err)
				}
				if c.Attestd.JoinToken = strings.TrimSpace(string(text)); c.Attestd.JoinToken == "" {
					return fmt.Errorf("--join-token %s is empty: make one with \"sealboot device token\"", joinToken)
				}
				// No one orders a floor for a machine that is not known, and without one it
				// would never get as far as asking.
				c.Floor = config.FloorOptional
			}
			text, err := c.Marshal()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "the site's directory")
	f.StringVar(&from, "from", "", "site config to complete")
	f.StringArrayVar(&oci, "oci", nil, "boot this image, REGISTRY/REPOSITORY:TAG or @DIGEST (repeat for more, in order)")
	f.StringVar(&registryCA, "registry-ca", "", "PEM file with the CA certificates of the --oci registries; a loader knows no public ones")
	f.BoolVar(&plainHTTP, "plain-http", false, "fetch the --oci images without TLS")
	f.BoolVar(&media, "media", false, "boot from a volume labelled SB-MEDIA when the others fail")
	f.StringVar(&cmdline, "cmdline", "", "command line of the operating system; "+closed("")+" is added, unless it says otherwise")
	f.StringVar(&joinToken, "join-token", "", "file with a join token: machines that were not enrolled wait for \"sealboot device allow\"")
	f.BoolVar(&lab, "lab", false, "permit what is for the lab only")
	require(cmd, "dir")
	cmd.MarkFlagsMutuallyExclusive("registry-ca", "plain-http")
	return cmd
}

// identify fills in who the site is.
func identify(c *config.Site, s *site.Site) error {
	var err error
	c.Name = s.Name
	if c.Attestd == nil {
		c.Attestd = &config.Attestd{}
	}
	c.Attestd.URL, c.Attestd.CA = strings.TrimSuffix(s.URL, "/"), string(s.CA.PEM())
	if c.ServerKey, err = x509.MarshalPKIXPublicKey(s.ServerPublic()); err != nil {
		return err
	}
	c.ReleaseKey, err = x509.MarshalPKIXPublicKey(s.ReleasePublic())
	return err
}
