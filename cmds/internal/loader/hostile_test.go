package loader

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	ocipublish "github.com/sealboot/sealboot/boot/publish/ocipush"
)

// hostile is what somebody may have put in the place of one file. path does not exist, its directory does.
var hostile = map[string]func(path string) error{
	"a directory with files": func(path string) error {
		return errors.Join(os.MkdirAll(filepath.Join(path, "a", "b"), 0o700), os.WriteFile(filepath.Join(path, "c"), nil, 0o600))
	},
	"an empty directory": func(path string) error { return os.Mkdir(path, 0o700) },
	"an empty file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
	"garbage":            func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("{\xff\x00"), 1<<15), 0o600) },
	"an endless file": func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Truncate(path, 1<<40))
	},
	"a link to itself":        func(path string) error { return os.Symlink(filepath.Base(path), path) },
	"a link to a device":      func(path string) error { return os.Symlink("/dev/zero", path) },
	"a link that leads out":   func(path string) error { return os.Symlink("/etc/passwd", path) },
	"a link to its directory": func(path string) error { return os.Symlink(".", path) },
	"a pipe":                  func(path string) error { return unix.Mkfifo(path, 0o600) },
	"a socket":                func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
	"a device":                func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) },
	"a file of somebody else": func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("x"), 0), os.Chown(path, 4711, 4711))
	},
	"a name in another case": func(path string) error {
		return os.WriteFile(filepath.Join(filepath.Dir(path), strings.ToUpper(filepath.Base(path))), nil, 0o600)
	},
	"a file that cannot be changed": func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("x"), 0o600), immutable(path, true))
	},
}

// immutable forbids, or allows, everybody to change a file.
func immutable(path string, on bool) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const flag = 0x10 // FS_IMMUTABLE_FL
	if flags |= flag; !on {
		flags &^= flag
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// replace puts one of hostile in the place of what is at path. It skips the test where the file system has no such thing.
func replace(t *testing.T, path string, with func(path string) error) {
	t.Helper()
	t.Cleanup(func() { _ = immutable(path, false) })
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o700)); err != nil {
		t.Fatal(err)
	}
	err := with(path)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
}

// A volumeUse is one use of a volume: a world that has booted with it, in good order, in the directory.
type volumeUse struct {
	world     *world
	directory string
	names     []string // what that use looks at
}

// TestHostileVolumes puts everything that a file can be in the place of every file that a boot looks at on a volume, and a
// boot must end in a running kernel all the same: from this source, or from the next one.
func TestHostileVolumes(t *testing.T) {
	for name, use := range map[string]func(t *testing.T) volumeUse{
		"downloads":  downloadsUse,
		"disk image": diskUse,
		"metadata":   metadataUse,
		"layout":     layoutUse,
		"bundle":     bundleUse,
	} {
		t.Run(name, func(t *testing.T) {
			u := use(t)
			u.boots(t) // all in order
			good := filepath.Join(t.TempDir(), "good")
			copyTree(t, good, u.directory)
			for what, with := range hostile {
				t.Run(what, func(t *testing.T) {
					for _, file := range u.names {
						copyTree(t, u.directory, good)
						replace(t, filepath.Join(u.directory, file), with)
						u.boots(t)
						_ = immutable(filepath.Join(u.directory, file), false)
						if t.Failed() {
							t.Fatalf("%s in place of %s", what, file)
						}
					}
				})
			}
		})
	}
}

// copyTree makes to a copy of from.
func copyTree(t *testing.T, to, from string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

func (u volumeUse) boots(t *testing.T) {
	t.Helper()
	u.world.t, u.world.loaded = t, nil
	outcome, err := u.world.boot()
	if outcome != flow.Kexec || string(u.world.loaded.kernel) != kernelText {
		t.Errorf("boot: %v, %v\n%s", outcome, err, &u.world.out)
	}
}

// bareWorld is a world without TPM and attestd, for boots of which there are many.
func bareWorld(t *testing.T) (w *world, cache string) {
	t.Helper()
	w, cache = newWorld(t), t.TempDir()
	w.conf.Attestd, w.conf.ServerKey, w.conf.ReleaseKey = nil, nil, nil
	w.conf.Sources[0].Ref = w.host() + "/os@" + w.digest()
	w.change = func(o *Options) { o.NoTPM, o.Cache = true, cache }
	return w, cache
}

// digest is that of the world's image.
func (w *world) digest() string {
	w.t.Helper()
	repo, err := remote.NewRepository(w.host() + "/os")
	if err != nil {
		w.t.Fatal(err)
	}
	repo.PlainHTTP = true
	d, err := repo.Resolve(w.t.Context(), "stable")
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Digest.String()
}

func cached(content string) []string {
	name := "blobs/sha256-" + digest.FromString(content).Encoded()
	return []string{name, name + ".part", name + ".marks"}
}

func downloadsUse(t *testing.T) volumeUse {
	w, cache := bareWorld(t)
	return volumeUse{w, cache, append(cached(kernelText), "blobs")}
}

func diskUse(t *testing.T) volumeUse {
	w, cache := bareWorld(t)
	raw := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	layout := diskLayout(t, raw)
	ref := w.host() + "/disk"
	sum := pushTo(t, ref+":v1", ocipublish.Artifact{Disk: filepath.Join(layout, "disk.raw"), Kernel: filepath.Join(layout, "vmlinuz")})
	dev := t.TempDir()
	w.conf.Sources[0].Ref, w.conf.Sources[0].Disk = ref+"@"+sum, "/dev/vda"
	w.volumes.Dev = dev
	u := volumeUse{w, cache, cached(string(raw))}
	w.change = func(o *Options) {
		o.NoTPM, o.Cache = true, cache
		path := filepath.Join(dev, "vda") // a new disk for every boot, or nothing would be fetched
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<20)); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func metadataUse(t *testing.T) volumeUse {
	w, cache := bareWorld(t)
	r := w.repo(1)
	r.Publish("root")
	r.Publish("timestamp")
	u := volumeUse{w, cache, []string{"tuf", "tuf/roots", "tuf/roots/2.root", "tuf/roots/2.root.tmp", "tuf/floor", "tuf/floor.tmp"}}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		u.names = append(u.names, "tuf/"+role+".json", "tuf/"+role+".json.tmp")
	}
	return u
}

// layoutUse is a medium with two layouts, of which the second is what counts when the first is broken; then the registry.
func layoutUse(t *testing.T) volumeUse {
	w, _ := bareWorld(t)
	directory := w.copyToLayout()
	w.layout = directory
	w.conf.Sources = append([]config.Source{{Type: config.SourceMedia, Ref: w.digest()}}, w.conf.Sources...)
	blob := "os/blobs/sha256/" + digest.FromString(kernelText).Encoded()
	return volumeUse{w, directory, []string{
		"os", "os/oci-layout", "os/index.json", "os/blobs", "os/blobs/sha256", blob, "os/blobs/sha256/" + digest.Digest(w.digest()).Encoded(),
		"a.tar", "another", strings.Repeat("n", 251) + ".tar",
	}}
}

// bundleUse is a medium with two TUF bundles, the second in case that the first is broken.
func bundleUse(t *testing.T) volumeUse {
	w, _ := bareWorld(t)
	p := w.publisher()
	p.publish(1)
	spare := p.stick(time.Now())
	if err := os.WriteFile(filepath.Join(w.layout, "spare.tar"), spare, 0o600); err != nil {
		t.Fatal(err)
	}
	return volumeUse{w, w.layout, []string{"os.tar", "a.tar", "another", "another/bundle.json", "bundle.json", "metadata", "targets"}}
}

// TestManyNames fills a cache's directories with names.
func TestManyNames(t *testing.T) {
	u := metadataUse(t)
	for _, dir := range []string{"blobs", "tuf", "tuf/roots"} {
		if err := os.MkdirAll(filepath.Join(u.directory, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			name := fmt.Sprintf("sha256-%s%d", strings.Repeat("0", 240), i)
			if err := os.WriteFile(filepath.Join(u.directory, dir, name), []byte(strconv.Itoa(i)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	u.boots(t)
}
