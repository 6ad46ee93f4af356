// Command tuf-client is the client that tufboot boots with, behind the command
// line of the TUF project's conformance suite:
//
//	tuf-client --metadata-dir D init TRUSTED_ROOT
//	tuf-client --metadata-dir D --metadata-url U refresh
//	tuf-client --metadata-dir D --metadata-url U --target-name P... --target-dir T --target-base-url B download
//
// It exits with 0 on success and with 1 on any failure. Two things differ from
// tufboot: the directory D is trusted to hold the root to start from, and the time
// is what date(1) says, because the suite fakes that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], date, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "tuf-client:", err)
		os.Exit(1)
	}
}

// options are the flags, which come before the verb.
type options struct {
	metadataDir, metadataURL string
	targetDir, targetURL     string
	targets                  []string
	clock                    func(context.Context) (time.Time, error)
}

func run(ctx context.Context, args []string, clock func(context.Context) (time.Time, error), stderr io.Writer) error {
	o := options{clock: clock}
	fs := flag.NewFlagSet("tuf-client", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: tuf-client [flags] init TRUSTED_ROOT | refresh | download\n\nFlags:")
		fs.PrintDefaults()
	}
	fs.StringVar(&o.metadataDir, "metadata-dir", "", "keep trusted metadata in this `directory`")
	fs.StringVar(&o.metadataURL, "metadata-url", "", "the `URL` of the repository's metadata")
	fs.StringVar(&o.targetDir, "target-dir", "", "put targets into this `directory`")
	fs.StringVar(&o.targetURL, "target-base-url", "", "the `URL` of the repository's targets")
	fs.Func("target-name", "download this target; may be repeated", func(s string) error {
		o.targets = append(o.targets, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.metadataDir == "" {
		return errors.New("--metadata-dir is missing")
	}
	cache, release, err := store.Open(o.metadataDir)
	if err != nil {
		return err
	}
	defer release()
	switch verb := fs.Arg(0); {
	case verb == "init" && fs.NArg() == 2:
		return initialise(cache, fs.Arg(1))
	case verb == "refresh" && fs.NArg() == 1:
		_, err := o.refresh(ctx, cache)
		return err
	case verb == "download" && fs.NArg() == 1:
		return o.download(ctx, cache)
	}
	return errors.New("the verb is one of: init TRUSTED_ROOT, refresh, download")
}

// initialise only copies: the root is judged when it is used.
func initialise(cache *store.Store, path string) error {
	root, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the trusted root: %w", err)
	}
	return cache.Save(tuf.RoleRoot, root)
}

func (o options) refresh(ctx context.Context, cache *store.Store) (*tuf.Client, error) {
	if o.metadataURL == "" {
		return nil, errors.New("--metadata-url is missing")
	}
	root, err := cache.Load(tuf.RoleRoot)
	if err != nil {
		return nil, fmt.Errorf("load the trusted root (run init first): %w", err)
	}
	now, err := o.clock(ctx)
	if err != nil {
		return nil, err
	}
	web := httpClient()
	client, err := tuf.New(tuf.Config{
		TrustedRoot:  root,
		Store:        cache,
		Repositories: []tuf.Repository{tuf.Web{URL: o.metadataURL, Client: web}},
		Targets:      tuf.Streamed{URL: o.targetURL, Client: web, Create: o.create},
		Now:          now,
	})
	if err != nil {
		return nil, err
	}
	return client, client.Refresh(ctx)
}

func (o options) download(ctx context.Context, cache *store.Store) error {
	if len(o.targets) == 0 || o.targetDir == "" || o.targetURL == "" {
		return errors.New("--target-name, --target-dir or --target-base-url is missing")
	}
	client, err := o.refresh(ctx, cache)
	if err != nil {
		return err
	}
	for _, name := range o.targets {
		if err := o.one(ctx, client, name); err != nil {
			return err
		}
	}
	return nil
}

func (o options) one(ctx context.Context, client *tuf.Client, name string) (err error) {
	if err := o.clean(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.clean()) }()
	target, err := client.Find(ctx, name)
	if err != nil {
		return err
	}
	dst := o.path(name)
	if isThere(dst, target.Want) {
		return nil
	}
	f, err := client.Download(ctx, target)
	if err != nil {
		return err
	}
	return errors.Join(place(f, dst), f.Close())
}

// httpClient gives up on a server that does not answer.
func httpClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	return &http.Client{Transport: t}
}

// date asks date(1), so that a time faked by a preloaded library counts.
func date(ctx context.Context) (time.Time, error) {
	out, err := exec.CommandContext(ctx, "date", "+%s").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("ask date for the time: %w", err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask date for the time: %w", err)
	}
	return time.Unix(seconds, 0), nil
}
