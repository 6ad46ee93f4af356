package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/cmds/internal/loader"
	"github.com/sealboot/sealboot/measure/redact"
)

func newCopyCmd() *cobra.Command {
	var from, to connectionFlags
	cmd := &cobra.Command{
		Use:   "copy SOURCE TARGET",
		Short: "Copy an image with its signatures and referrers",
		Long: `Copy copies an image between registries, layout directories and layout tar files,
and with it everything that refers to it: signatures in both of cosign's forms,
reference values, and what else is attached. It prints the image's digest,
which stays the same. A terminal shows one bar for all of it; elsewhere each thing
that was copied is a line.

What the target has is not copied again, and a copy that was interrupted goes on
where it was: run it again. What has arrived of a blob is kept in the layout's
directory .partial, next to a tar file in FILE.partial, and for a registry in
sealboot/copy of the user's cache directory.

A location is "registry/name:tag", "oci:DIRECTORY:TAG" or "oci-archive:FILE:TAG".
On a volume labelled SB-MEDIA, a directory or tar file can be booted.`,
		Example: `  sealboot copy registry.example/os:1 oci-archive:/media/stick/os.tar:1`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			digest, err := runCopy(cmd.Context(), cmd.ErrOrStderr(), args[0], args[1], &from, &to)
			if err != nil {
				return fmt.Errorf("copying %s to %s: %w", args[0], args[1], loader.Hint(redact.Error(err), "--from-ca or --to-ca", "--from-plain-http or --to-plain-http"))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), digest)
			return err
		},
	}
	from.add(cmd.Flags(), "from-")
	to.add(cmd.Flags(), "to-")
	return cmd
}

func runCopy(ctx context.Context, progress io.Writer, source, target string, from, to *connectionFlags) (digest string, err error) {
	src, err := openSource(ctx, source, from)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := openTarget(ctx, target, to)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	show, end := copyView(progress)
	desc, err := ocipush.Copy(ctx, src, dst, show)
	end()
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), dst.Finish()
}

// copyView shows a copy: to a terminal by one bar, elsewhere by a line for each
// thing that was copied.
func copyView(w io.Writer) (show ocipush.CopyOptions, end func()) {
	if con, show, end := newBar(w, "copied"); con != nil {
		return ocipush.CopyOptions{Warn: con.Warn, Progress: show}, end
	}
	return ocipush.CopyOptions{Note: func(d ocispec.Descriptor) {
		_, _ = fmt.Fprintf(w, "%s  %d bytes  %s\n", d.Digest, d.Size, d.MediaType) // only a courtesy
	}, Warn: func(err error) {
		_, _ = fmt.Fprintf(w, "warning: %v\n", err)
	}}, func() {}
}

// newBar returns a bar for what is done to bytes, and a console to say other
// things on; no console, and a bar that shows nothing, where w is no terminal.
func newBar(w io.Writer, what string) (con *console.Console, show func(fetch.Progress), end func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func(fetch.Progress) {}, func() {}
	}
	con = console.New(console.Options{Out: f})
	shown := false
	return con, func(p fetch.Progress) {
			if p.Total > 0 {
				con.Progress(console.Progress{Done: p.Done, Total: p.Total, Rate: p.Rate, Left: p.Left(), What: what})
				shown = true
			}
		}, func() {
			if shown {
				_, _ = fmt.Fprintln(f) // the bar leaves its line open
			}
		}
}

// locate reads a location, and what the flags say of the way there.
func (f *connectionFlags) locate(location string) (conn oci.Connection, loc ocipush.Location, err error) {
	if conn, err = f.connection(); err != nil {
		return conn, loc, err
	}
	loc, err = ocipush.ParseLocation(location)
	return conn, loc, err
}

func openSource(ctx context.Context, location string, f *connectionFlags) (*ocipush.Source, error) {
	conn, loc, err := f.locate(location)
	if err != nil {
		return nil, err
	}
	return loc.Source(ctx, conn)
}

func openTarget(ctx context.Context, location string, f *connectionFlags) (*ocipush.Target, error) {
	conn, loc, err := f.locate(location)
	if err != nil {
		return nil, err
	}
	return loc.Target(ctx, conn)
}
