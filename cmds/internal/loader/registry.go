package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/boot/source/volume"
)

// source returns what fetches from src.
func (m *Machine) source(src *config.Source) (flow.Source, error) {
	switch src.Type {
	case config.SourceOCI:
		return &registry{m: m, src: src}, nil
	case config.SourceTUF:
		return &repository{m: m, src: src}, nil
	case config.SourceMedia:
		return &stick{m: m, src: src, open: func(ctx context.Context) (string, func() error, error) {
			if m.o.Layout != "" {
				return m.o.Layout, func() error { return nil }, nil
			}
			return m.volumes.Open(ctx, volume.Media)
		}}, nil
	}
	return nil, fmt.Errorf("no source of type %q", src.Type)
}

// registry is an image in a registry and its mirrors. It keeps what it has
// fetched, so a later round goes on where an earlier one stopped.
type registry struct {
	m   *Machine
	src *config.Source

	opened *oci.Source
}

func (r *registry) String() string     { return "oci " + r.src.Ref }
func (r *registry) NeedsNetwork() bool { return true }

func (r *registry) Fetch(ctx context.Context) (*flow.Candidate, error) {
	if r.opened == nil {
		places, err := r.places()
		if err != nil {
			return nil, err
		}
		if r.opened, err = r.m.openOCI(ctx, r.src, places, r.m.newEnough(r.src)); err != nil {
			return nil, err
		}
		r.m.closers = append(r.m.closers, r.opened.Close)
	}
	c, err := r.m.candidate(ctx, r.src, r.opened)
	if err != nil {
		return nil, err
	}
	return r.m.dated(c), nil
}

func (r *registry) places() ([]oci.Place, error) {
	var places []oci.Place
	for _, ref := range references(r.src) {
		p, err := r.m.remote(r.src, ref)
		if err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	return places, nil
}

// references are the image's name at the registry and at each mirror.
func references(src *config.Source) []string {
	refs := []string{src.Ref}
	_, suffix := splitRef(src.Ref)
	for _, mirror := range src.Mirrors {
		refs = append(refs, mirror+suffix)
	}
	return refs
}

// splitRef cuts tag and digest off a reference, with their separators.
func splitRef(ref string) (repository, suffix string) {
	at := len(ref)
	if i := strings.IndexByte(ref, '@'); i >= 0 {
		at = i
	}
	if i := strings.LastIndexByte(ref[:at], ':'); i > strings.LastIndexByte(ref[:at], '/') {
		at = i
	}
	return ref[:at], ref[at:]
}

// remote is one repository, reached as src says.
func (m *Machine) remote(src *config.Source, ref string) (*oci.Remote, error) {
	host := config.Registry(ref)
	conn := oci.Connection{
		PlainHTTP: src.PlainHTTP, CA: []byte(src.CA), DockerConfig: m.o.DockerConfig,
		Now: m.clock.Now, Dial: m.dialer().DialContext, Proxy: m.proxy,
	}
	// A mirror is somebody else's, and so may be what a TUF target names.
	if a := src.Auth; a != nil && host == src.CredentialHost() {
		conn.Cert, conn.Key = []byte(a.Cert), []byte(a.Key)
		conn.Credential = auth.StaticCredential(host, auth.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.Token})
	}
	return oci.NewRemote(ref, conn)
}

// openOCI opens an image at places, with the signature policy of src. accept may be nil.
func (m *Machine) openOCI(ctx context.Context, src *config.Source, places []oci.Place, accept func(context.Context, *oci.Image) error) (*oci.Source, error) {
	at, err := platformOf(src)
	if err != nil {
		return nil, err
	}
	o := oci.Options{Places: places, Platform: at, Accept: accept, Rounds: 1, Fetch: m.fetchOptions(ctx)}
	if len(src.Keys) > 0 {
		p := cosign.Policy{Threshold: src.Threshold, Identity: src.Identity}
		for i, der := range src.Keys {
			k, err := cosign.ParseKey(der)
			if err != nil {
				return nil, fmt.Errorf("keys[%d]: %w", i, err)
			}
			p.Keys = append(p.Keys, k)
		}
		o.Admit = p.Admit
	}
	return oci.New(o)
}

// newEnough refuses an image of src that is older than what the machine has run,
// before it is fetched: a mirror that is behind must not hide the next one.
func (m *Machine) newEnough(src *config.Source) func(context.Context, *oci.Image) error {
	return func(ctx context.Context, found *oci.Image) error {
		version, err := osimage.Version(found.Manifest)
		if err != nil {
			return err
		}
		return m.floor.accept(ctx, &flow.Candidate{Version: version, Vouched: src.Vouched()})
	}
}

// candidate fetches the whole of an image and makes it bootable.
func (m *Machine) candidate(ctx context.Context, src *config.Source, s *oci.Source) (_ *flow.Candidate, err error) {
	found, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	m.o.Console.Info("found " + found.Place + "@" + found.Descriptor.Digest.String())
	c := &flow.Candidate{Ref: "sha256:" + found.Descriptor.Digest.Encoded(), Provenance: found.Provenance(), Vouched: src.Vouched()}
	if c.Version, err = osimage.Version(found.Manifest); err != nil {
		return nil, err
	}
	o, err := m.options(src)
	if err != nil {
		return nil, err
	}
	if osimage.NeedsDisk(found.Manifest) {
		// The disk may hold the image: then its blob is not fetched.
		if src.Disk != "" && !m.dry {
			if o.Disk, err = m.volumes.OpenDisk(ctx, src.Disk); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, o.Disk.Close()) }()
		}
	} else if err := prefetch(ctx, found, o); err != nil {
		return nil, err
	}
	i, err := osimage.FromManifest(ctx, found.Manifest, found, o)
	if err != nil {
		return nil, err
	}
	c.Image = m.wrap(i)
	return c, nil
}

// dated tells people how old a candidate can be shown to be, and attestd's policy
// if somebody vouches for it: a provenance without a version is of an image that
// has none.
func (m *Machine) dated(c *flow.Candidate) *flow.Candidate {
	switch {
	case c.Version == 0:
		m.o.Console.Info("the image has no version: no rollback floor can tell it from an older one")
	case !c.Vouched:
		m.o.Console.Info(fmt.Sprintf("image version %d, which nothing vouches for: it raises no rollback floor", c.Version))
	default:
		m.o.Console.Info(fmt.Sprintf("image version %d", c.Version))
		for _, r := range c.Provenance {
			r.Detail["version"] = osimage.FormatVersion(c.Version)
		}
	}
	return c
}

// prefetch brings all of an image into memory, if that has room for what will
// become of it.
func prefetch(ctx context.Context, found *oci.Image, o osimage.Options) error {
	if err := osimage.Fits(found.Manifest, found.Held(), o); err != nil {
		return err
	}
	return found.Prefetch(ctx)
}

func (m *Machine) fetchOptions(ctx context.Context) fetch.Options {
	return fetch.Options{Cache: m.downloads(ctx), Progress: m.progress, Warn: m.o.Console.Warn}
}

// downloads is the cache of partial downloads, nil on a machine without one. It is opened once, however many rounds and
// sources ask for it: each opening costs a descriptor until the machine is closed.
func (m *Machine) downloads(ctx context.Context) *fetch.Cache {
	if m.cache != nil {
		return m.cache
	}
	dir := m.cacheDir(ctx, "blobs")
	if dir == "" {
		return nil
	}
	c, err := fetch.OpenCache(dir)
	if err != nil {
		m.o.Console.Warn(err)
		return nil
	}
	m.closers = append(m.closers, c.Close)
	m.cache = c
	return c
}

// cacheDir returns a directory on SB-CACHE, which is mounted once; empty if the
// machine has no such volume. Nothing on it is trusted.
func (m *Machine) cacheDir(ctx context.Context, name string) string {
	m.cacheOnce.Do(func() {
		dir, unmount, err := m.volumes.OpenWritable(ctx, volume.Cache)
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			m.o.Console.Warn(err)
			return
		}
		m.cacheRoot = dir
		m.closers = append(m.closers, unmount)
	})
	if m.cacheRoot == "" {
		return ""
	}
	dir := filepath.Join(m.cacheRoot, name)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		// A link would lead out of the volume.
		var st os.FileInfo
		if st, err = os.Lstat(dir); err == nil && !st.IsDir() {
			err = fmt.Errorf("cache: %s is no directory", dir)
		}
	}
	if err != nil {
		m.o.Console.Warn(err)
		return ""
	}
	return dir
}

// searchTime is how long a medium may take to be looked through.
const searchTime = 2 * time.Minute

// stick is a source on local media: an OCI layout, or a TUF bundle.
type stick struct {
	m    *Machine
	src  *config.Source
	open func(ctx context.Context) (dir string, unmount func() error, err error)
}

func (s *stick) String() string     { return "media " + s.src.Ref + s.src.Target }
func (s *stick) NeedsNetwork() bool { return false }

func (s *stick) Fetch(ctx context.Context) (*flow.Candidate, error) {
	dir, unmount, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := unmount(); err != nil {
			s.m.o.Console.Warn(err) // what was read from it has been verified
		}
	}()
	if s.src.Target != "" {
		return s.bundle(ctx, dir)
	}
	return s.layout(ctx, dir)
}

func (s *stick) layout(ctx context.Context, dir string) (*flow.Candidate, error) {
	searching, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	layouts, err := media.Open(searching, dir, s.src.Ref)
	if err != nil {
		return nil, err
	}
	var places []oci.Place
	for _, l := range layouts {
		defer l.Close()
		places = append(places, l)
	}
	// What is on local media needs no cache.
	opened, err := s.m.openOCI(ctx, s.src, places, s.m.newEnough(s.src))
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	c, err := s.m.candidate(ctx, s.src, opened)
	if err != nil {
		return nil, err
	}
	return s.m.dated(c), nil
}
