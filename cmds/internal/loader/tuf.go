package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/base/transport"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/boot/source/tuf/image"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
	"github.com/sealboot/sealboot/measure/event"
)

// repository is a target of a TUF repository. It keeps the metadata and what
// it has fetched for a later round.
type repository struct {
	m   *Machine
	src *config.Source

	targets *tuf.Fetched
	store   tuf.Store
	client  *http.Client
}

func (r *repository) String() string {
	return fmt.Sprintf("tuf %s target %s", r.src.MetadataURL, r.src.Target)
}
func (r *repository) NeedsNetwork() bool { return true }

func (r *repository) Fetch(ctx context.Context) (*flow.Candidate, error) {
	metadata, targets := directories(r.src)
	if r.targets == nil {
		if err := r.open(ctx, targets); err != nil {
			return nil, err
		}
	}
	conf := tuf.Config{TrustedRoot: r.src.Root, Store: r.store, Targets: r.targets}
	for _, u := range metadata {
		conf.Repositories = append(conf.Repositories, tuf.Web{URL: u, Client: r.client})
	}
	return r.m.fromTUF(ctx, r.src, conf)
}

func (r *repository) open(ctx context.Context, targets []string) error {
	t, err := transport.New(transport.Options{CA: []byte(r.src.CA), Dial: r.m.dialer().DialContext, Proxy: r.m.proxy})
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	r.client = &http.Client{Transport: r.m.clock.Transport(t, false)}
	fetched, err := tuf.NewFetched(targets, r.client, r.m.fetchOptions(ctx))
	if err != nil {
		return err
	}
	r.m.closers = append(r.m.closers, fetched.Close)
	r.targets, r.store = fetched, r.m.metadata(ctx)
	return nil
}

// directories are the places of metadata and targets, in order of preference. A
// mirror has the layout of a bundle: both in directories below its URL.
func directories(src *config.Source) (metadata, targets []string) {
	metadata = []string{src.MetadataURL}
	targets = []string{src.TargetsURL}
	if src.TargetsURL == "" {
		base := strings.TrimSuffix(src.MetadataURL, "/")
		targets[0] = strings.TrimSuffix(base, "/"+bundle.MetadataDir) + "/" + bundle.TargetsDir
	}
	for _, m := range src.Mirrors {
		base := strings.TrimSuffix(m, "/") + "/"
		metadata, targets = append(metadata, base+bundle.MetadataDir), append(targets, base+bundle.TargetsDir)
	}
	return metadata, targets
}

// metadata is the store of verified metadata: on SB-CACHE as far as that can be written, else in memory.
func (m *Machine) metadata(ctx context.Context) tuf.Store {
	if m.store == nil {
		m.store = m.openMetadata(ctx)
	}
	return m.store
}

func (m *Machine) openMetadata(ctx context.Context) tuf.Store {
	dir := m.cacheDir(ctx, "tuf")
	if dir == "" {
		return new(store.Memory)
	}
	s, release, err := store.Open(dir)
	if err != nil {
		m.o.Console.Warn(err)
		return new(store.Memory)
	}
	m.closers = append(m.closers, release)
	return store.NewFallback(s, m.o.Console.Warn)
}

// fromTUF refreshes, finds the target of src and makes it bootable. The version
// that the target has counts, whatever its image says.
func (m *Machine) fromTUF(ctx context.Context, src *config.Source, conf tuf.Config) (*flow.Candidate, error) {
	conf.Floor = m.refreshFloor(conf.Store)
	client, err := m.refresh(ctx, conf)
	if err != nil {
		return nil, err
	}
	state, err := client.State()
	if err != nil {
		return nil, err
	}
	c := &flow.Candidate{Vouched: true, Trust: tufTrust{state, client.SignedTime()}}
	found, err := image.Load(ctx, client, src.Target, runtime.GOARCH, func(signed *image.Image) error {
		c.Ref = fmt.Sprintf("%s version %d", src.Target, signed.Version)
		c.Provenance, c.Version = []event.Record{signed.Provenance}, signed.Version
		return m.floor.accept(ctx, c)
	})
	if err != nil {
		return nil, err
	}
	switch found.Kind {
	case image.KindOCI:
		err = m.pinned(ctx, src, found, c)
	case image.KindBundle:
		err = m.bundled(ctx, src, found, c)
	default:
		c.Image, err = m.fromTarget(src, found)
	}
	if err != nil {
		return nil, err
	}
	return m.dated(c), nil
}

// refresh follows the repository to its newest metadata. When that was signed
// later than the clock says, it is judged once more at that time.
func (m *Machine) refresh(ctx context.Context, conf tuf.Config) (*tuf.Client, error) {
	for again := true; ; again = false {
		conf.Now = m.clock.Now()
		if m.clock.Policy() == clock.Off {
			conf.Now = time.Unix(1, 0) // nothing has expired then
		}
		client, err := tuf.New(conf)
		if err != nil {
			return nil, err
		}
		if err := client.Refresh(ctx); err != nil {
			return nil, err
		}
		if signed := client.SignedTime(); again && signed.After(m.clock.Now()) {
			if err := m.clock.Passed(signed); err != nil {
				return nil, err
			}
			continue
		}
		return client, nil
	}
}

// tufTrust is what TUF proved, for the rollback floor.
type tufTrust struct {
	state  tuf.State
	signed time.Time // the metadata was, at least; zero when unknown
}

// fromTarget makes an image of a target's files, which it takes over.
func (m *Machine) fromTarget(src *config.Source, found *image.Image) (flow.Image, error) {
	o, err := m.options(src)
	if err != nil {
		return nil, errors.Join(err, found.Close())
	}
	switch found.Kind {
	case image.KindLinux:
		i, err := osimage.FromFiles(found.Kernel, found.Initrd, found.DTB, found.Cmdline, o)
		if err != nil {
			return nil, err
		}
		return m.wrap(i), nil
	case image.KindUKI:
		o.Cmdline = strings.TrimSpace(found.Cmdline + " " + o.Cmdline)
		i, err := osimage.FromUKI(found.File, o)
		if err != nil {
			return nil, err
		}
		return m.wrap(i), nil
	}
	return nil, errors.Join(fmt.Errorf("target of kind %q: %w", found.Kind, osimage.ErrUnsupported), found.Close())
}

// pinned takes the image that TUF names from a registry: trust from TUF, bytes
// from anywhere.
func (m *Machine) pinned(ctx context.Context, src *config.Source, found *image.Image, c *flow.Candidate) error {
	at := &config.Source{Ref: found.OCI.Repository + "@" + found.OCI.Digest, PlainHTTP: src.PlainHTTP, CA: src.CA, Auth: src.Auth, Platform: src.Platform, Disk: src.Disk}
	if home := at.CredentialHost(); home != "" && home != config.Registry(at.Ref) {
		m.o.Console.Info(fmt.Sprintf("%s is asked without credentials: those of the site config are for %s", config.Registry(at.Ref), home))
	}
	place, err := m.remote(at, at.Ref)
	if err != nil {
		return err
	}
	return m.adopt(ctx, at, place, c)
}

// bundled takes the image out of a target that is an OCI layout in a tar.
func (m *Machine) bundled(ctx context.Context, src *config.Source, found *image.Image, c *flow.Candidate) error {
	layout, err := media.OpenTar(ctx, found.File, "")
	if err != nil {
		return fmt.Errorf("target %q: %w", src.Target, err)
	}
	defer layout.Close()
	return m.adopt(ctx, &config.Source{Ref: layout.Reference(), Platform: src.Platform, Disk: src.Disk}, layout, c)
}

// adopt completes c, which TUF vouches for, with the image of at in place.
func (m *Machine) adopt(ctx context.Context, at *config.Source, place oci.Place, c *flow.Candidate) error {
	opened, err := m.openOCI(ctx, at, []oci.Place{place}, nil)
	if err != nil {
		return err
	}
	defer opened.Close()
	from, err := m.candidate(ctx, at, opened)
	if err != nil {
		return err
	}
	c.Image, c.Provenance = from.Image, append(c.Provenance, from.Provenance...)
	return nil
}

// bundle boots from an offline TUF bundle in dir: dir itself, a directory or a
// tar in it.
func (s *stick) bundle(ctx context.Context, dir string) (*flow.Candidate, error) {
	searching, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	budget := survey.NewBudget()
	paths, err := bundles(searching, budget, dir)
	if err != nil {
		return nil, fmt.Errorf("looking for a TUF bundle: %w", err)
	}
	errs := []error{fmt.Errorf("no TUF bundle with the target %q: %w", s.src.Target, fs.ErrNotExist)}
	for _, path := range paths {
		c, err := s.oneBundle(ctx, budget, path)
		if err == nil {
			return c, nil
		}
		if len(errs) <= maxTold {
			errs = append(errs, err)
		}
		if errors.Is(err, survey.ErrTooMuch) || ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (s *stick) oneBundle(ctx context.Context, budget *survey.Budget, path string) (*flow.Candidate, error) {
	b, err := bundle.Open(ctx, path, budget)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return s.m.fromTUF(ctx, s.src, tuf.Config{
		TrustedRoot: s.src.Root, Store: s.m.metadata(ctx), Repositories: []tuf.Repository{b}, Targets: b,
	})
}

// Of the bundles on a medium.
const (
	maxBundles = 1 << 10 // that are tried
	maxTold    = 16      // whose errors are told
)

// bundles are the paths in dir that could be a bundle, in the order of their names.
func bundles(ctx context.Context, budget *survey.Budget, dir string) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var paths []string
	err = budget.Directory(ctx, root, func(e fs.DirEntry) error {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Name() == bundle.SealFile:
			path = dir
		case e.IsDir():
			if _, err := root.Lstat(filepath.Join(e.Name(), bundle.SealFile)); err != nil {
				return nil
			}
		case !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), ".tar"):
			return nil
		}
		if len(paths) == maxBundles {
			return fmt.Errorf("%w: more than %d bundles", survey.ErrTooMuch, maxBundles)
		}
		paths = append(paths, path)
		return nil
	})
	slices.Sort(paths)
	return paths, err
}
