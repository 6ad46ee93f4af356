// Attest is the device's side of attestation in a running OS, and a tool to look at a machine's TPM.
//
// It opens the volumes whose keys come from the site's seal key, keeps the device's agent certificate
// fresh, and gathers what is needed to enrol a machine. It also builds as a u-root command.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/attest/agent"
	"github.com/sealboot/sealboot/attest/device"
	"github.com/sealboot/sealboot/cmds/internal/guard"
	"github.com/sealboot/sealboot/cmds/internal/version"
	"github.com/sealboot/sealboot/measure/tpm"
)

const usage = `attest COMMAND [flags]

  attest evidence [--tpm ADDR]                 print this machine's TPM identity, PCRs and logs as JSON
  attest unlock --volume NAME --device DEV     open (at first boot: format) a volume as /dev/mapper/NAME
  attest agent [--once]                        identify to attestd, report health, renew the certificate
  attest status                                what this boot was given
  attest --version

Flags of all: --dir DIR  the loader's handover (default /run/sealboot)
              --tpm ADDR /dev/tpmrm0 (default), unix:PATH, tcp:HOST:PORT

Exit: 0 done, 1 failed, 2 wrong use, 3 this boot holds no release, 4 volume may not be formatted,
      5 attestd denies, 6 attestd cannot be reached
`

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotAttested = 3
	exitNoFormat    = 4
	exitDenied      = 5
	exitUnreachable = 6
)

func main() {
	if err := guard.NoCores(); err != nil { // the seal key passes through here
		fmt.Fprintln(os.Stderr, "attest:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are all flags; each command reads its own.
type options struct {
	dir, tpm, volume, device string
	once                     bool
	healthTimeout            time.Duration
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(stdout, "attest", version.String())
		return 0
	}
	commands := map[string]func(context.Context, options, io.Writer) error{
		"evidence": evidence, "unlock": unlock, "agent": runAgent, "status": status,
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "attest: unknown command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	flags := flag.NewFlagSet("attest "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o options
	flags.StringVar(&o.dir, "dir", agent.Dir, "the loader's handover")
	flags.StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "the TPM")
	switch args[0] {
	case "unlock":
		flags.StringVar(&o.volume, "volume", "", "name of the volume: it goes into its key")
		flags.StringVar(&o.device, "device", "", "block device that holds it")
	case "agent":
		flags.BoolVar(&o.once, "once", false, "identify, report health, renew, and exit")
		flags.DurationVar(&o.healthTimeout, "health-timeout", 10*time.Minute, "how long systemd may take to start everything")
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 || (args[0] == "unlock" && (o.volume == "" || o.device == "")) {
		fmt.Fprintf(stderr, "attest: wrong arguments for %s\n\n%s", args[0], usage)
		return exitUsage
	}
	if err := command(ctx, o, stdout); err != nil {
		fmt.Fprintf(stderr, "attest %s: %v\n", args[0], err)
		return exitCode(err)
	}
	return 0
}

func exitCode(err error) int {
	for _, c := range []struct {
		err  error
		code int
	}{
		{agent.ErrNotAttested, exitNotAttested},
		{agent.ErrMayNotFormat, exitNoFormat},
		{device.ErrDenied, exitDenied},
		{device.ErrUnreachable, exitUnreachable},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return exitFailed
}

func evidence(ctx context.Context, o options, out io.Writer) error {
	t, err := tpm.Open(ctx, o.tpm)
	if err != nil {
		return err
	}
	defer t.Close()
	e, err := agent.Gather(ctx, t, o.dir)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(e)
}

func unlock(ctx context.Context, o options, out io.Writer) error {
	h, err := agent.Open(o.dir)
	if err != nil {
		return err
	}
	done, err := agent.Volumes{}.Unlock(ctx, h, o.volume, o.device)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "volume %s on %s: %s\n", o.volume, o.device, done)
	return nil
}

func runAgent(ctx context.Context, o options, out io.Writer) error {
	h, err := agent.Open(o.dir)
	if err != nil {
		return err
	}
	t, err := tpm.Open(ctx, o.tpm)
	if err != nil {
		return err
	}
	defer t.Close()
	a := &agent.Agent{
		Handover: h,
		Key:      &agent.TPMKey{TPM: t, Handover: h, Version: "attest/" + version.String()},
		Log:      slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: untimed})),
		Healthy: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, o.healthTimeout)
			defer cancel()
			return agent.Systemd(ctx)
		},
	}
	if o.once {
		return a.Once(ctx)
	}
	return a.Run(ctx)
}

// untimed leaves the time to the journal where that keeps the log.
func untimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && os.Getenv("JOURNAL_STREAM") != "" {
		return slog.Attr{}
	}
	return a
}

func status(_ context.Context, o options, out io.Writer) error {
	h, err := agent.Open(o.dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `site         %s
attestd      %s
device       %s
image        %s version %d
decision     %s
certificate  until %s
first boot   %v
`, h.Result.Issuer, h.Result.URL, h.Result.Device, h.Result.Image, h.Result.Version, h.Identity.Decision,
		h.Identity.NotAfter.UTC().Format(time.RFC3339), h.Result.FirstBoot)
	return nil
}
