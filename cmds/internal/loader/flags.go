package loader

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// Flags are what ociboot and tufboot have in common.
type Flags struct {
	DryRun, JSON, NoTPM, PlainHTTP bool
	CA, Cmdline, Platform, Site    string
	TPM, Cache                     string
}

// Set returns the flags of the command name, to which it adds its own. Its help
// is usage, the flags, and the exit codes.
func (f *Flags) Set(name, usage string) *flag.FlagSet {
	s := flag.NewFlagSet(name, flag.ContinueOnError)
	s.Usage = func() {
		fmt.Fprint(s.Output(), usage)
		s.PrintDefaults()
		fmt.Fprint(s.Output(), exitCodes)
	}
	s.BoolFunc("version", "print the version; it goes alone", func(string) error { return errors.New("it goes alone") }) // see Run
	s.BoolVar(&f.DryRun, "dry-run", false, "do everything but measure and boot, on any Linux machine, and print what would be booted and measured")
	s.BoolVar(&f.JSON, "json", false, "with --dry-run: print JSON")
	s.BoolVar(&f.NoTPM, "no-tpm", false, "boot a machine without a TPM: nothing is measured, and no secrets are released")
	s.BoolVar(&f.PlainHTTP, "plain-http", false, "reach the registry without TLS")
	s.StringVar(&f.CA, "ca", "", "`FILE` with the CA certificates (PEM) to trust in place of the system's")
	s.StringVar(&f.Cmdline, "cmdline", "", "`TEXT` to add to the image's kernel command line")
	s.StringVar(&f.Platform, "platform", "", "`OS/ARCH`, such as linux/arm64, to pick from an image index (default this machine's)")
	s.StringVar(&f.Site, "site", "", "site config `FILE`: attest to its attestd and hand its release over")
	s.StringVar(&f.TPM, "tpm", "/dev/tpmrm0", "`ADDRESS` of the TPM: a device, unix:PATH or tcp:HOST:PORT")
	s.StringVar(&f.Cache, "cache", "", "`DIRECTORY` for partial downloads and TUF metadata (default the volume SB-CACHE, if there is one)")
	return s
}

// Strings is a flag that may be repeated.
type Strings []string

func (s *Strings) String() string     { return strings.Join(*s, ",") }
func (s *Strings) Set(v string) error { *s = append(*s, v); return nil }

// Machine wires a machine for one source and runs it. The network is expected
// to be up. It returns the exit code.
func (f *Flags) Machine(src config.Source, o Options) (*Machine, error) {
	if f.JSON && !f.DryRun {
		return nil, fmt.Errorf("--json goes with --dry-run")
	}
	if f.CA != "" {
		text, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		src.CA = string(text)
	}
	src.PlainHTTP, src.Platform = f.PlainHTTP, f.Platform
	if _, err := platformOf(&src); err != nil {
		return nil, fmt.Errorf("--platform: %w", err)
	}
	var err error
	if o.Site, o.SiteRaw, err = f.site(src); err != nil {
		return nil, err
	}
	o.Console = console.New(console.Options{Out: os.Stderr})
	o.TPM, o.NoTPM, o.Cache, o.NoNetwork, o.Version = f.TPM, f.NoTPM, f.Cache, true, Version()
	return New(o)
}

// site is the site config of the flag, or one that has the source and nothing
// else.
func (f *Flags) site(src config.Source) (*config.Site, []byte, error) {
	var raw []byte
	s := &config.Site{Name: "local", PCRs: config.PCRs{Image: 12, Authority: 13}, Clock: "prefer", End: "reboot"}
	if f.Site != "" {
		var err error
		if s, raw, err = config.ReadSite(f.Site); err != nil {
			return nil, nil, err
		}
	}
	s.Sources, s.Rounds = []config.Source{src}, 1
	s.Cmdline = strings.TrimSpace(s.Cmdline + " " + f.Cmdline)
	return s, raw, nil
}
