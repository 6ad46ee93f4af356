package loader

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/kexec"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/predict"
)

// Exit codes of ociboot and tufboot. A boot that succeeds does not return.
const (
	ExitOK       = 0 // dry run: this image would boot
	ExitFailed   = 1 // nothing was measured; try again
	ExitUsage    = 2 // the command line is wrong
	ExitMeasured = 3 // failed after the image was measured: reset the machine
)

// A Plan is what a dry run found.
type Plan struct {
	Ref        string           `json:"ref"`
	Kind       string           `json:"kind"`
	Version    uint64           `json:"version,omitempty"`
	Vouched    bool             `json:"vouched,omitempty"` // keys, a digest or TUF stand for image and version
	Cmdline    string           `json:"cmdline"`
	NeedsRAM   int64            `json:"needsRAM"` // bytes
	Artifacts  []event.Artifact `json:"artifacts"`
	Provenance []event.Record   `json:"provenance"`
	PCR        int              `json:"pcr"`      // number of the image PCR
	AtQuote    string           `json:"atQuote"`  // its SHA-256 value when attested
	AfterCap   string           `json:"afterCap"` // and in the operating system
}

// DryRun does everything up to the measurement with the machine's only source.
func (m *Machine) DryRun(ctx context.Context) (*Plan, error) {
	m.dry = true
	s, err := m.source(&m.o.Site.Sources[0])
	if err != nil {
		return nil, err
	}
	m.o.Console.Stage(flow.StageFetch)
	m.o.Console.Info(s.String())
	c, err := s.Fetch(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Image.Close()
	b, ok := c.Image.(bootable)
	if !ok {
		return nil, fmt.Errorf("an image of type %T", c.Image)
	}
	p := &Plan{
		Ref: c.Ref, Kind: b.Kind, Version: c.Version, Vouched: c.Vouched, Cmdline: b.Cmdline, NeedsRAM: b.NeedsRAM,
		Artifacts: b.Descriptor.Artifacts, Provenance: c.Provenance, PCR: m.o.Site.PCRs.Image,
	}
	values, err := predict.ForImage(b.Descriptor, []tpm2.TPMAlgID{tpm2.TPMAlgSHA256})
	if err != nil {
		return nil, err
	}
	p.AtQuote = hex.EncodeToString(values.Attested[tpm2.TPMAlgSHA256])
	p.AfterCap = hex.EncodeToString(values.AfterCap[tpm2.TPMAlgSHA256])
	return p, nil
}

// Write shows the plan to people.
func (p *Plan) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "image\t%s\n", p.Ref)
	switch {
	case p.Version == 0:
		fmt.Fprintf(t, "version\tnone\n")
	case p.Vouched:
		fmt.Fprintf(t, "version\t%d\n", p.Version)
	default:
		fmt.Fprintf(t, "version\t%d, which nothing vouches for\n", p.Version)
	}
	fmt.Fprintf(t, "kind\t%s\ncommand line\t%s\nmemory\t%d MiB to load\n", p.Kind, p.Cmdline, p.NeedsRAM>>20)
	fmt.Fprintln(t, "measured")
	for _, a := range p.Artifacts {
		fmt.Fprintf(t, "  %s\tsha256:%s  %d bytes\n", a.Role, a.SHA256, a.Size)
	}
	fmt.Fprintf(t, "PCR %d\tsha256:%s  when attested\n\tsha256:%s  after the cap\n", p.PCR, p.AtQuote, p.AfterCap)
	return t.Flush()
}

// exitCodes explains them in the help of a command.
const exitCodes = `
Exit codes: 0 the dry run succeeded, 1 failed and nothing was measured, 2 the command line is wrong,
3 failed after the image was measured: reset the machine. A boot that succeeds does not return.
`

// Run is what ociboot and tufboot have in common: it runs the machine that the
// command line asks for and returns the exit code.
func Run(name string, args []string, parse func(args []string) (*Machine, *Flags, error)) int {
	if len(args) == 1 && (args[0] == "--version" || args[0] == "-version") {
		fmt.Println(name, Version())
		return ExitOK
	}
	m, f, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return ExitOK
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return ExitUsage
	}
	defer m.Close()
	return m.main(context.Background(), f.DryRun, f.JSON)
}

// main runs the machine's only source.
func (m *Machine) main(ctx context.Context, dryRun, asJSON bool) int {
	if dryRun {
		return m.dryMain(ctx, asJSON)
	}
	if err := m.hasTPM(); err != nil {
		m.o.Console.Fail(&flow.Failure{Stage: flow.StagePrepare, Err: err}, "nothing was changed")
		return ExitFailed
	}
	b, err := m.Boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitUsage
	}
	outcome, err := b.Run(ctx)
	if err != nil {
		if b.Committed() {
			return ExitMeasured
		}
		return ExitFailed
	}
	if outcome == flow.Kexec {
		err = errors.Join(m.Close(), new(kexec.Loader).Exec(ctx, nil))
	}
	fmt.Fprintln(os.Stderr, err)
	return ExitMeasured
}

// hasTPM says what to do without one. There is nothing to wait for: who calls a
// command has a system that is up.
func (m *Machine) hasTPM() error {
	path := strings.TrimPrefix(m.o.TPM, "unix:")
	if m.o.NoTPM || strings.HasPrefix(path, "tcp:") {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("no TPM: %w; boot without measuring by --no-tpm, only look at the image by --dry-run, or say where a TPM is by --tpm", err)
	}
	return nil
}

func (m *Machine) dryMain(ctx context.Context, asJSON bool) int {
	p, err := m.DryRun(ctx)
	if err != nil {
		m.o.Console.Fail(&flow.Failure{Stage: flow.StageFetch, Err: Hint(err, "--ca", "--plain-http")}, "nothing was changed")
		return ExitFailed
	}
	m.o.Console.End("this would boot; nothing was changed")
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(p)
	} else {
		err = p.Write(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitFailed
	}
	return ExitOK
}
