// Attestd is the attestation server of a site: it judges what devices booted and releases the site's
// secrets to those that booted what they should have.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/attest/server"
	"github.com/sealboot/sealboot/attest/server/site"
)

const usage = `attestd serve --dir DIR [--listen ADDR] [--admin ADDR] [--evidence DIR]

Serves one site, made with: sealboot site init --dir DIR --name NAME --url https://HOST:PORT

  --dir DIR      the site's directory
  --listen ADDR  for devices, TLS (default :8443)
  --admin ADDR   status page, metrics and audit export, without TLS or passwords; a loopback
                 address, put a proxy in front of it; "" for none (default 127.0.0.1:8480)
  --evidence DIR keep the last evidence of each device here, for auditors
  --verbose      log every refused connection too
`

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if args[0] != "serve" {
		fmt.Fprintf(stderr, "attestd: unknown command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	flags := flag.NewFlagSet("attestd serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	var o options
	flags.StringVar(&o.dir, "dir", "", "")
	flags.StringVar(&o.listen, "listen", ":8443", "")
	flags.StringVar(&o.admin, "admin", "127.0.0.1:8480", "")
	flags.StringVar(&o.evidence, "evidence", "", "")
	flags.BoolVar(&o.verbose, "verbose", false, "")
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage
	}
	if o.dir == "" || flags.NArg() > 0 {
		fmt.Fprint(stderr, "attestd: --dir is required, and nothing but flags\n\n"+usage)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, o, stderr); err != nil {
		fmt.Fprintf(stderr, "attestd: %v\n", err)
		return exitFailed
	}
	return 0
}

type options struct {
	dir, listen, admin string
	evidence           string
	verbose            bool
}

func serve(ctx context.Context, o options, stderr io.Writer) (err error) {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	st, err := site.Load(o.dir, time.Now)
	if err != nil {
		return err
	}
	db, err := st.OpenStore(ctx, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if o.evidence != "" {
		if err := os.MkdirAll(o.evidence, 0o700); err != nil {
			return fmt.Errorf("directory for evidence: %w", err)
		}
	}
	s, err := server.New(server.Config{Site: st, Store: db, Log: log, Evidence: o.evidence})
	if err != nil {
		return err
	}
	devices, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for devices: %w; choose another address with --listen, whose port is that of %s", err, st.URL)
	}
	defer devices.Close()
	var admin net.Listener
	if o.admin != "" {
		if admin, err = listenLoopback(o.admin); err != nil {
			return err
		}
		defer admin.Close()
		log.Info("status page", "url", "http://"+admin.Addr().String()+"/")
	}
	log.Info("serving", "site", st.Name, "listen", devices.Addr().String(), "as", st.URL)
	return s.Serve(ctx, devices, admin)
}

// listenLoopback refuses to show the site's devices to the network.
func listenLoopback(addr string) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	if !a.IP.IsLoopback() {
		return nil, fmt.Errorf("admin address %s: it has neither TLS nor passwords, so it must be a loopback address (127.0.0.1:8480)", addr)
	}
	l, err := net.ListenTCP("tcp", a)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w; choose another address with --admin, or \"\" for none", err)
	}
	return l, nil
}
