// Package kernel builds a loader's kernel from a distribution's source archive
// and a configuration fragment, with the patches of this package: few, each for
// what a loader of kernels meets and no option mends, and each says what it is for.
//
// A build is named by the hash of everything that decides its bytes: the source
// archive, the patches, the fragment, the tools and the recipe. A kernel that is
// in the cache under its name is not built again, and nothing incomplete ever
// gets that name.
package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DebianSource is where Debian's package linux-source-6.1 puts its archive.
const DebianSource = "/usr/src/linux-source-6.1.tar.xz"

// patches are for the kernel's source tree, in the order of their names.
//
//go:embed patches/*.patch
var patches embed.FS

// recipe is part of every build's name; it changes when this package would
// make other bytes out of the same inputs.
const recipe = "1"

// ErrConfig means that the kernel refused an option of the fragment, usually
// because something it depends on is missing.
var ErrConfig = errors.New("kernel: option not accepted")

// Config says what to build.
type Config struct {
	// Arch is the kernel's name of the architecture, and Target the file that
	// its build makes, for example "x86_64" and "arch/x86/boot/bzImage".
	Arch, Target string
	// Fragment is merged over tinyconfig.
	Fragment []byte
	// Source is the archive of the kernel sources; empty means DebianSource.
	Source string
	// Cache is the directory of finished builds; empty means a directory
	// "sealboot/kernel" in the user's cache.
	Cache string
	// Log receives the build's output; nil drops it.
	Log io.Writer
}

// Kernel is a finished build.
type Kernel struct {
	// Image is the path of the kernel, Config that of its whole configuration.
	Image, Config string
	// Release is what "uname -r" will say.
	Release string
}

// Build returns the kernel that c describes, from the cache if it is there.
// Building takes minutes on two processors, and 1.6 GB of temporary space.
func Build(ctx context.Context, c Config) (*Kernel, error) {
	if c.Source == "" {
		c.Source = DebianSource
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	if c.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("kernel: no cache directory: %w", err)
		}
		c.Cache = filepath.Join(user, "sealboot", "kernel")
	}
	if err := os.MkdirAll(c.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("kernel: cache: %w", err)
	}
	name, err := c.name(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.Cache, name)
	if k, err := open(dir); err == nil {
		return k, nil
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if k, err := open(dir); err == nil { // somebody else has built it meanwhile
		return k, nil
	}
	if err := c.build(ctx, dir); err != nil {
		return nil, err
	}
	return open(dir)
}

// open returns the finished build in dir.
func open(dir string) (*Kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return nil, fmt.Errorf("kernel: reading a finished build: %w", err)
	}
	return &Kernel{
		Image:   filepath.Join(dir, "image"),
		Config:  filepath.Join(dir, "config"),
		Release: strings.TrimSpace(string(release)),
	}, nil
}

// name returns the hash of the inputs.
func (c *Config) name(ctx context.Context) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "recipe %s\narch %s\ntarget %s\n", recipe, c.Arch, c.Target)
	for _, option := range options(c.Fragment) {
		fmt.Fprintf(h, "option %s\n", option)
	}
	if err := hashPatches(h, patches); err != nil {
		return "", err
	}
	for _, tool := range []string{"gcc", "ld", "xz"} {
		version, err := exec.CommandContext(ctx, tool, "--version").Output()
		if err != nil {
			return "", fmt.Errorf("kernel: building a kernel needs %s: %w", tool, err)
		}
		first, _, _ := bytes.Cut(version, []byte("\n"))
		fmt.Fprintf(h, "tool %s\n", first)
	}
	f, err := os.Open(c.Source)
	if err != nil {
		return "", fmt.Errorf("kernel: source archive (package linux-source-6.1): %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("kernel: reading the source archive: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// hashPatches makes the patches part of a name.
func hashPatches(h io.Writer, from fs.FS) error {
	return eachPatch(from, func(name string, patch []byte) error {
		_, err := fmt.Fprintf(h, "patch %s %d\n%s", name, len(patch), patch)
		return err
	})
}

// eachPatch hands out the patches in their order.
func eachPatch(from fs.FS, do func(name string, patch []byte) error) error {
	names, err := fs.Glob(from, "patches/*.patch")
	if err != nil {
		return err
	}
	for _, name := range names {
		patch, err := fs.ReadFile(from, name)
		if err == nil {
			err = do(name, patch)
		}
		if err != nil {
			return fmt.Errorf("kernel: %s: %w", name, err)
		}
	}
	return nil
}

// options returns the settings in a fragment, without its comments.
func options(fragment []byte) []string {
	var out []string
	for line := range strings.Lines(string(fragment)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "CONFIG_") || strings.HasPrefix(line, "# CONFIG_") {
			out = append(out, line)
		}
	}
	return out
}

// lock takes the lock file at path, waiting for the process that holds it.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("kernel: lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("kernel: locking %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("kernel: waiting for another build of the same kernel: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// build makes the kernel in a work directory and moves the result to dir. Anyone who
// has the lock has the work directory: what a build that was killed left there goes.
func (c *Config) build(ctx context.Context, dir string) error {
	work := dir + ".work"
	tree := filepath.Join(work, "linux")
	result := filepath.Join(work, "result")
	err := os.RemoveAll(work)
	defer os.RemoveAll(work)
	for _, d := range []string{work, tree, result} {
		if err == nil {
			err = os.Mkdir(d, 0o755)
		}
	}
	if err != nil {
		return fmt.Errorf("kernel: work directory: %w", err)
	}
	if err := c.run(ctx, "", "tar", "--extract", "--strip-components=1", "--directory", tree, "--file", c.Source); err != nil {
		return err
	}
	if err := c.patch(ctx, tree); err != nil {
		return err
	}
	if err := c.configure(ctx, tree); err != nil {
		return err
	}
	jobs := "-j" + strconv.Itoa(runtime.NumCPU())
	if err := c.run(ctx, tree, "make", jobs, filepath.Base(c.Target)); err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(tree, "include/config/kernel.release"))
	if err != nil {
		return fmt.Errorf("kernel: release: %w", err)
	}
	if err := os.WriteFile(filepath.Join(result, "release"), release, 0o644); err != nil {
		return fmt.Errorf("kernel: release: %w", err)
	}
	for from, to := range map[string]string{c.Target: "image", ".config": "config"} {
		if err := os.Rename(filepath.Join(tree, from), filepath.Join(result, to)); err != nil {
			return fmt.Errorf("kernel: keeping the result: %w", err)
		}
	}
	if err := os.Rename(result, dir); err != nil {
		return fmt.Errorf("kernel: keeping the result: %w", err)
	}
	return nil
}

// patch applies the patches. One that does not fit, not even moved by some lines, is
// an error: no one would miss what it does until a machine does.
func (c *Config) patch(ctx context.Context, tree string) error {
	if _, err := exec.LookPath("patch"); err != nil {
		return fmt.Errorf("kernel: building a kernel needs patch: %w", err)
	}
	return eachPatch(patches, func(name string, patch []byte) error {
		file := filepath.Base(name)
		if err := os.WriteFile(filepath.Join(tree, file), patch, 0o644); err != nil {
			return err
		}
		return c.run(ctx, tree, "patch", "--strip=1", "--fuzz=0", "--batch", "--forward", "--input", file)
	})
}

// configure merges the fragment over tinyconfig and makes sure that the kernel
// took every option of it: a dropped one would only be missed at boot.
func (c *Config) configure(ctx context.Context, tree string) error {
	if err := c.run(ctx, tree, "make", "--silent", "tinyconfig"); err != nil {
		return err
	}
	path := filepath.Join(tree, ".config")
	base, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("kernel: configuration: %w", err)
	}
	if err := os.WriteFile(path, append(base, c.Fragment...), 0o644); err != nil {
		return fmt.Errorf("kernel: configuration: %w", err)
	}
	if err := c.run(ctx, tree, "make", "--silent", "olddefconfig"); err != nil {
		return err
	}
	final, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("kernel: configuration: %w", err)
	}
	if dropped := refused(c.Fragment, final); len(dropped) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(dropped, ", "))
	}
	return nil
}

// refused returns the options of the fragment that final does not honour.
func refused(fragment, final []byte) []string {
	set := map[string]bool{}
	for _, line := range options(final) {
		set[line] = true
	}
	var dropped []string
	for _, option := range options(fragment) {
		if name, off := strings.CutSuffix(strings.TrimPrefix(option, "# "), " is not set"); off {
			// An option that is off may also be absent.
			if set[name+"=y"] || set[name+"=m"] {
				dropped = append(dropped, option)
			}
		} else if !set[option] {
			dropped = append(dropped, option)
		}
	}
	return dropped
}

// run executes one step of the build in an environment of its own: what the
// caller's environment says (an outer make's flags, a locale) must not matter.
func (c *Config) run(ctx context.Context, dir, name string, arg ...string) error {
	cmd := exec.CommandContext(ctx, name, arg...)
	// Make ends its compilers before itself.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LC_ALL=C", "ARCH=" + c.Arch,
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER=sealboot",
		"KBUILD_BUILD_HOST=sealboot", "KBUILD_BUILD_VERSION=1",
	}
	var out, diag bytes.Buffer
	cmd.Stdout = io.MultiWriter(c.Log, &out)
	cmd.Stderr = io.MultiWriter(c.Log, &diag)
	if err := cmd.Run(); err != nil {
		if diag.Len() == 0 { // patch
			diag = out
		}
		lines := strings.Split(strings.TrimSpace(diag.String()), "\n")
		return fmt.Errorf("kernel: %s %s: %w: %s", name, strings.Join(arg, " "), err, lines[len(lines)-1])
	}
	return nil
}
