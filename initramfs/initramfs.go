// Package initramfs builds what the firmware starts: the loader's initramfs,
// and the unified kernel image that carries it.
//
// The initramfs holds one busybox made by gobusybox out of Go commands, u-root's
// init among them, and the files of the site. It holds no shell, no C library
// and no set of certificate authorities. The same sources, toolchain and files
// always give the same bytes: that is what lets an auditor recompute the PCR
// values of a machine from this repository alone.
package initramfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/sealboot/sealboot/boot/config"
)

// initCommand is u-root's init: it mounts the pseudo file systems, then starts
// /bbin/uinit. When that exits and no shell exists, init exits too, and the
// kernel panics and resets.
const initCommand = "github.com/u-root/u-root/cmds/core/init"

// firmwareCommands are the names of the commands under cmds/ that make a
// loader, in the order of the documentation. The first is the uinit.
var firmwareCommands = []string{"netboot", "ociboot", "tufboot", "attest"}

// ErrOptions means that an Options value cannot describe an initramfs.
var ErrOptions = errors.New("initramfs: bad options")

// Options says what goes into an initramfs.
type Options struct {
	// Source is the directory of the Go module whose commands are built.
	Source string
	// Commands are import paths, or paths relative to Source that start with
	// "./". Their last elements are their names and must be distinct.
	Commands []string
	// Uinit is the name of the command that init starts.
	Uinit string
	// Version is what the loader calls itself, for people; see SourceVersion. When
	// empty, nothing tells.
	Version string
	// Files are added as they are, mode 0400, under their slash-separated
	// relative paths, for example "etc/sealboot/site.json".
	Files map[string][]byte
	// Arch is the GOARCH of the commands; empty means amd64.
	Arch string
	// Log receives the compiler's messages; nil drops them.
	Log io.Writer
}

// Loader returns the options of the product's loader: the firmware commands of
// the checkout at source, started with the site config given as JSON.
func Loader(source, version string, site []byte) Options {
	o := Options{
		Source:  source,
		Uinit:   firmwareCommands[0],
		Version: version,
		Files:   map[string][]byte{strings.TrimPrefix(config.SitePath, "/"): site},
	}
	for _, name := range firmwareCommands {
		o.Commands = append(o.Commands, "./cmds/"+name)
	}
	return o
}

// Recorder returns the options of a dummy loader that prints the platform
// firmware's event log, from which a firmware profile is made.
func Recorder(source string) Options {
	return Options{Source: source, Commands: []string{"./qemu/recorder"}, Uinit: "recorder"}
}

func (o *Options) check() error {
	if o.Source == "" {
		return fmt.Errorf("%w: no source directory", ErrOptions)
	}
	seen := map[string]bool{"init": true}
	for _, c := range o.Commands {
		name := path.Base(c)
		if seen[name] {
			return fmt.Errorf("%w: two commands are called %q", ErrOptions, name)
		}
		seen[name] = true
	}
	if o.Version != "" && !versionForm.MatchString(o.Version) {
		return fmt.Errorf("%w: version %q: want at most 64 letters, digits and .+~_-", ErrOptions, o.Version)
	}
	if o.Uinit == "init" || !seen[o.Uinit] {
		return fmt.Errorf("%w: the uinit %q is not one of the commands", ErrOptions, o.Uinit)
	}
	for name := range o.Files {
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return fmt.Errorf("%w: file name %q is not a clean relative path", ErrOptions, name)
		}
	}
	return nil
}

// Build returns a complete initramfs, compressed the way the kernel reads it.
// It needs the go command and xz.
func Build(ctx context.Context, o Options) ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	busybox, err := buildBusybox(ctx, &o)
	if err != nil {
		return nil, err
	}
	archive, err := o.archive(busybox)
	if err != nil {
		return nil, err
	}
	return compress(ctx, archive)
}

// archive lays the tree out as a newc cpio: sorted, owned by root, time 0.
func (o *Options) archive(busybox []byte) ([]byte, error) {
	records := map[string]cpio.Record{
		"init":      cpio.Symlink("init", "bbin/init"),
		"bbin/bb":   cpio.StaticFile("bbin/bb", string(busybox), 0o755),
		"bbin/init": cpio.Symlink("bbin/init", "bb"),
	}
	for _, c := range o.Commands {
		name := "bbin/" + path.Base(c)
		records[name] = cpio.Symlink(name, "bb")
	}
	records["bbin/uinit"] = cpio.Symlink("bbin/uinit", o.Uinit)
	if o.Version != "" {
		name := strings.TrimPrefix(config.VersionPath, "/")
		records[name] = cpio.StaticFile(name, o.Version+"\n", 0o444)
	}
	for name, content := range o.Files {
		if _, taken := records[name]; taken {
			return nil, fmt.Errorf("%w: file %q would replace one of the loader's own", ErrOptions, name)
		}
		records[name] = cpio.StaticFile(name, string(content), 0o400)
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp"} {
		records[dir] = cpio.Directory(dir, 0o755)
	}
	for name := range maps.Clone(records) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			records[dir] = cpio.Directory(dir, 0o755)
		}
	}

	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	for i, name := range slices.Sorted(maps.Keys(records)) {
		r := cpio.MakeReproducible(records[name])
		r.Ino = uint64(i + 1)
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("initramfs: writing %s: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("initramfs: writing the trailer: %w", err)
	}
	return out.Bytes(), nil
}

// compress uses the xz command because it has the branch filter for x86 that
// the pure Go encoder lacks; it saves about 5 %. The kernel's decoder accepts no
// other check than CRC32. One thread, or the block layout would depend on the
// number of processors.
func compress(ctx context.Context, archive []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "xz", "--compress", "--stdout", "--threads=1",
		"--check=crc32", "--x86", "--lzma2=preset=9e,dict=32MiB")
	cmd.Env = append(os.Environ(), "XZ_DEFAULTS=", "XZ_OPT=")
	cmd.Stdin = bytes.NewReader(archive)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("initramfs: compressing with xz (package xz-utils): %w: %s", err, strings.TrimSpace(diag.String()))
	}
	return out.Bytes(), nil
}
