// Package osbuild makes the operating system that the lab boots: a Debian root
// with kernel and systemd, turned into a container image by a Containerfile and
// pushed to a registry, all with ordinary tools. It is also the example of how
// an operator makes an image.
//
// The slow steps are cached by the hash of their inputs; nothing incomplete gets
// a name in the cache.
package osbuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/qemu/child"
)

//go:embed files
var files embed.FS

// epoch is the date of every file in the image.
const epoch = "1700000000"

// Options says what to build.
type Options struct {
	// Source is the directory of Sealboot's sources: the attest command and the
	// OS side of it (cmds/attest/os) are taken from there.
	Source string
	// Overlay is a directory whose tree is copied over the root, last; may be
	// empty.
	Overlay string
	// Cache is where finished steps are kept; empty means "sealboot/os" in the
	// user's cache directory.
	Cache string
	// Step is told what is being done, in a few words; nil for no one.
	Step func(string)
	// Log receives the output of tools; nil drops it.
	Log io.Writer
}

// Image is a finished image: an OCI layout with one image, tagged "latest".
type Image struct {
	Layout string
	// Digest is that of the image's manifest, "sha256:...".
	Digest string
}

// versioned is the annotation that gives the image its version for the rollback
// floor, as any builder can write it.
const versioned = osimage.AnnotationVersion + "=1"

// Build returns the image, from the cache if its inputs have not changed. It
// needs root, mmdebstrap, buildah, and the first time a Debian mirror.
func Build(ctx context.Context, o Options) (*Image, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	context, err := os.MkdirTemp(o.Cache, "build-")
	if err != nil {
		return nil, fmt.Errorf("osbuild: work directory: %w", err)
	}
	defer os.RemoveAll(context)
	base, err := o.base(ctx)
	if err != nil {
		return nil, err
	}
	if err := o.assemble(ctx, context); err != nil {
		return nil, err
	}
	key, err := treeHash(context, filepath.Base(base)+" "+versioned)
	if err != nil {
		return nil, err
	}
	layout := filepath.Join(o.Cache, "image-"+key)
	if _, err := os.Stat(layout); errors.Is(err, os.ErrNotExist) {
		o.Step("OS image from its Containerfile")
		if err := o.containerfile(ctx, context, layout, base); err != nil {
			return nil, err
		}
	}
	return open(layout)
}

func (o *Options) defaults() error {
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("osbuild: no cache directory: %w", err)
		}
		o.Cache = filepath.Join(user, "sealboot", "os")
	}
	var err error
	if o.Cache, err = filepath.Abs(o.Cache); err != nil {
		return fmt.Errorf("osbuild: cache directory: %w", err)
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return fmt.Errorf("osbuild: cache directory: %w", err)
	}
	return nil
}

// base returns the layout of the Debian root's image, from the cache when the
// recipe is the same.
func (o *Options) base(ctx context.Context) (string, error) {
	work, err := os.MkdirTemp(o.Cache, "base-work-")
	if err != nil {
		return "", fmt.Errorf("osbuild: work directory: %w", err)
	}
	defer os.RemoveAll(work)
	for _, name := range []string{"Containerfile.base", "customize.sh", "packages", "excludes"} {
		if err := extract("files/"+name, filepath.Join(work, strings.TrimSuffix(name, ".base")), 0o755); err != nil {
			return "", err
		}
	}
	key, err := treeHash(work, epoch)
	if err != nil {
		return "", err
	}
	layout := filepath.Join(o.Cache, "base-"+key)
	if _, err := os.Stat(layout); err == nil {
		return layout, nil
	}
	o.Step("Debian root directory (about two minutes the first time, then from the cache)")
	if err := o.debootstrap(ctx, work); err != nil {
		return "", err
	}
	return layout, o.containerfile(ctx, work, layout, "")
}

// debootstrap makes rootfs.tar in work out of the recipe there.
func (o *Options) debootstrap(ctx context.Context, work string) error {
	packages, err := lines("files/packages")
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--variant=minbase", "--format=tar", "--include=" + strings.Join(packages, ","),
		"--aptopt=APT::Install-Recommends \"false\"", "--customize-hook=" + filepath.Join(work, "customize.sh")}
	excludes, err := lines("files/excludes")
	if err != nil {
		return err
	}
	for _, glob := range excludes {
		args = append(args, "--dpkgopt=path-exclude="+glob)
	}
	// The root's own initramfs is not needed: the loader puts the root in RAM.
	return o.run(ctx, []string{"INITRD=No", "SOURCE_DATE_EPOCH=" + epoch}, "mmdebstrap",
		append(args, "bookworm", filepath.Join(work, "rootfs.tar"))...)
}

// containerfile builds the Containerfile in dir, on top of the layout base if
// there is one, into an OCI layout. The store of buildah is a temporary one: nothing
// of it is needed afterwards.
func (o *Options) containerfile(ctx context.Context, dir, layout, base string) error {
	store, err := os.MkdirTemp(o.Cache, "store-")
	if err != nil {
		return fmt.Errorf("osbuild: buildah's store: %w", err)
	}
	defer os.RemoveAll(store)
	root, runroot := filepath.Join(store, "root"), filepath.Join(store, "run")
	global := []string{"--root", root, "--runroot", runroot, "--storage-driver", "vfs"}
	const name = "localhost/sealboot-build"
	args := append(global, "bud", "--isolation", "chroot", "--timestamp", epoch, "--tag", name)
	if base != "" {
		// Not "FROM oci:...": buildah makes a name of the path, and few paths fit.
		target := fmt.Sprintf("containers-storage:[vfs@%s+%s]localhost/sealboot-base:latest", root, runroot)
		if err := o.run(ctx, nil, "skopeo", "copy", "--quiet", "oci:"+base+":latest", target); err != nil {
			return err
		}
		args = append(args, "--build-arg", "BASE=localhost/sealboot-base:latest", "--annotation", versioned)
	}
	if err := o.run(ctx, nil, "buildah", append(args, dir)...); err != nil {
		return err
	}
	tmp := filepath.Join(store, "layout")
	if err := o.run(ctx, nil, "buildah", append(global, "push", "--compression-format", "zstd", name, "oci:"+tmp+":latest")...); err != nil {
		return err
	}
	// Somebody else may have built the same meanwhile.
	if err := os.Rename(tmp, layout); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("osbuild: keeping the image: %w", err)
	}
	return nil
}

// assemble fills the build context: the Containerfile, the attest command and
// its OS side, and the overlay, which is this package's own and the caller's.
func (o *Options) assemble(ctx context.Context, dir string) error {
	if err := extract("files/Containerfile", filepath.Join(dir, "Containerfile"), 0o644); err != nil {
		return err
	}
	embedded, err := fs.Sub(files, "files/overlay")
	if err != nil {
		return fmt.Errorf("osbuild: %w", err)
	}
	overlay := filepath.Join(dir, "overlay")
	if err := copyTree(overlay, embedded); err != nil {
		return err
	}
	if o.Overlay != "" {
		if err := copyTree(overlay, os.DirFS(o.Overlay)); err != nil {
			return err
		}
	}
	if err := copyTree(filepath.Join(dir, "os"), os.DirFS(filepath.Join(o.Source, "cmds/attest/os"))); err != nil {
		return err
	}
	return o.runIn(ctx, o.Source, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS="}, "go", "build",
		"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", filepath.Join(dir, "attest"), "./cmds/attest")
}

// Push copies the image to a reference in a registry, such as
// "127.0.0.1:5000/os:v1", over plain HTTP if need be.
func (i *Image) Push(ctx context.Context, ref string) error {
	out, err := exec.CommandContext(ctx, "skopeo", "copy", "--quiet", "--dest-tls-verify=false",
		"oci:"+i.Layout+":latest", "docker://"+ref).CombinedOutput()
	if err != nil {
		return fmt.Errorf("osbuild: pushing to %s: %w: %s", ref, err, bytes.TrimSpace(out))
	}
	return nil
}

// open reads the digest out of a layout's index.
func open(layout string) (*Image, error) {
	b, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("osbuild: image layout: %w", err)
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("osbuild: image layout %s: %w", layout, err)
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("osbuild: image layout %s holds %d images, want 1", layout, len(index.Manifests))
	}
	return &Image{Layout: layout, Digest: index.Manifests[0].Digest}, nil
}

func (o *Options) run(ctx context.Context, env []string, name string, arg ...string) error {
	return o.runIn(ctx, "", env, name, arg...)
}

// stopGrace is how long a tool may take to unmount what it has mounted.
const stopGrace = 15 * time.Second

// runIn runs a tool; its last lines are in the error.
func (o *Options) runIn(ctx context.Context, dir string, env []string, name string, arg ...string) error {
	cmd := exec.Command(name, arg...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var diag bytes.Buffer
	cmd.Stdout = io.MultiWriter(o.Log, &diag)
	cmd.Stderr = cmd.Stdout
	if err := child.Run(ctx, cmd, stopGrace); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("osbuild: %s: %w", name, err)
		}
		text := bytes.TrimSpace(diag.Bytes())
		if len(text) > 1000 {
			text = text[len(text)-1000:]
		}
		return fmt.Errorf("osbuild: %s: %w: %s", name, err, text)
	}
	return nil
}

// treeHash hashes names, permissions and contents under dir, and a salt.
func treeHash(dir, salt string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", salt)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == "." {
			return nil
		}
		fmt.Fprintf(h, "%q %v %d\n", rel, info.Mode(), info.Size())
		if !info.Mode().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("osbuild: hashing the inputs: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}
