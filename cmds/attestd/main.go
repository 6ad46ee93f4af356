// Attestd is the attestation server of a site: it judges what devices booted and releases the site's
// secrets to those that booted what they should have.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/attest/server"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/cmds/internal/cli"
	"github.com/sealboot/sealboot/cmds/internal/guard"
)

func main() { cli.Main(newRootCmd()) }

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "attestd",
		Short: "The attestation server of a site",
		Long: `The attestation server of a site: it judges what devices booted, and releases the
site's secrets to those that booted what they should have.`,
	}
	root.AddCommand(newServeCmd())
	return root
}

func newServeCmd() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "serve --dir DIR",
		Short: "Serve one site",
		Long: `Serve one site, made with: sealboot site init --dir DIR --name NAME --url https://HOST:PORT

The status page, metrics and audit export have neither TLS nor passwords: they are on a loopback address, and a
proxy that asks who is there goes in front of it.`,
		Example: `  attestd serve --dir /var/lib/attestd --listen :8443`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := protect(o, newLog(o, cmd.ErrOrStderr())); err != nil {
				return err
			}
			return serve(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "the site's directory")
	f.StringVar(&o.listen, "listen", ":8443", "address for devices, TLS")
	f.StringVar(&o.admin, "admin", "127.0.0.1:8480", "loopback address for the status page, metrics and audit export; \"\" for none")
	f.StringVar(&o.evidence, "evidence", "", "directory to keep the last evidence of each device in, for auditors")
	f.BoolVar(&o.requireLocked, "require-locked-memory", false, "end, in place of a warning, if keys could be written to swap")
	f.BoolVar(&o.verbose, "verbose", false, "log what becomes of connections too; like all of the log, at a bounded pace")
	for _, name := range []string{"dir", "evidence"} {
		if err := cmd.MarkFlagDirname(name); err != nil {
			panic(err) // no such flag: a mistake in this program
		}
	}
	if err := cmd.MarkFlagRequired("dir"); err != nil {
		panic(err)
	}
	return cmd
}

type options struct {
	dir, listen, admin string
	evidence           string
	requireLocked      bool
	verbose            bool
}

// protect keeps the site's keys out of cores, swap and other processes, before they are read.
func protect(o options, log *slog.Logger) error {
	if err := errors.Join(guard.NoCores(), guard.Hide()); err != nil {
		return err
	}
	err := guard.LockMemory()
	if err != nil && !o.requireLocked {
		log.Warn("keys are not protected from swap", "err", err)
		return nil
	}
	return err
}

func newLog(o options, stderr io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
}

func serve(ctx context.Context, o options, stderr io.Writer) (err error) {
	log := newLog(o, stderr)
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
