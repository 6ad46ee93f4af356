package tufrepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// ErrTampered: what is published does not verify from the operator's root, or is
// older than what he has seen. Nothing is built on it.
var ErrTampered = errors.New("the repository is not as it was published")

// published is what clients see, verified as they do it and without regard to
// expiry. The zero value is a repository in which nothing is published.
type published struct {
	roles    map[string]any    // parsed, by name
	bytes    map[string][]byte // as they were verified
	state    tuf.State
	versions map[string]int64 // that the snapshot names, also of roles that have no delegator any more
}

// version is the highest that clients know of a role, 0 if they know none.
func (p *published) version(role string) int64 {
	v := p.versions[role]
	if md := p.roles[role]; md != nil {
		v = max(v, *fieldsOf(md).version)
	}
	return v
}

// load verifies what is published from the operator's trust, and remembers what it
// has seen.
func (r *Repo) load(ctx context.Context) (*published, error) {
	if _, err := os.Stat(r.path(bundle.MetadataDir)); errors.Is(err, fs.ErrNotExist) {
		if seen := r.memory.Seen.RootVersion; seen > 0 {
			return nil, fmt.Errorf("%w: %s has no %s, but root %d was published there; put it back, or remove %s if this is to be another repository",
				ErrTampered, r.dir, bundle.MetadataDir, seen, r.memoryPath())
		}
		return &published{}, nil
	}
	if r.memory.Root == nil {
		return nil, r.untrusted()
	}
	m := r.memory
	p, err := follow(ctx, r.dir, &m)
	if err != nil {
		return nil, err
	}
	if err := m.note(ctx, p); err != nil {
		return nil, err
	}
	return p, r.remember(m)
}

// follow verifies what the directory dir publishes as a client would that remembers m.
func follow(ctx context.Context, dir string, m *memory) (*published, error) {
	directory, err := bundle.OpenDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	f, err := newFollower(directory, m.Root, m, tuf.Never())
	if err != nil {
		return nil, err
	}
	p, err := f.follow(ctx)
	if err == nil {
		err = m.checkDelegated(p.versions)
	}
	switch {
	case err == nil:
		return p, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, tuf.ErrNotFound):
		return nil, fmt.Errorf("%w: %s lacks a top-level role, or one that the snapshot names: %w", ErrTampered, dir, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("read the repository %s: %w", dir, err)
	}
	return nil, fmt.Errorf("%w: %s: %w; put back what was published last", ErrTampered, dir, err)
}

// follower reads a repository in a directory by way of the client that devices have.
type follower struct {
	directory *bundle.Directory
	root      []byte
	client    *tuf.Client
	store     store.Memory
}

func newFollower(directory *bundle.Directory, root []byte, floor tuf.Floor, now time.Time) (*follower, error) {
	const rotations = 1 << 16 // the operator's root never moves on, as a device's does
	directory.Create = func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
	f := &follower{directory: directory, root: root}
	var err error
	f.client, err = tuf.New(tuf.Config{
		TrustedRoot: root, Store: &f.store, Floor: floor, Now: now,
		Repositories: []tuf.Repository{directory}, Targets: directory, Limits: tuf.Limits{RootRotations: rotations},
	})
	return f, err
}

// follow verifies every role that a client could come to.
func (f *follower) follow(ctx context.Context) (*published, error) {
	if err := f.checkTrusted(ctx); err != nil {
		return nil, err
	}
	if err := f.client.Refresh(ctx); err != nil {
		return nil, err
	}
	names, err := f.client.Delegated(ctx)
	if err != nil {
		return nil, err
	}
	p := &published{roles: map[string]any{}, bytes: map[string][]byte{}, versions: f.client.Versions()}
	if p.state, err = f.client.State(); err != nil {
		return nil, err
	}
	for _, name := range append(names, topLevel...) {
		if p.bytes[name], err = f.store.Load(name); err != nil {
			return nil, err
		}
		if p.roles[name], err = decode(name, p.bytes[name]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// checkTrusted compares the directory's copy of the trusted root with it. No client
// that trusts the root looks at that copy, but machines are installed from it.
func (f *follower) checkTrusted(ctx context.Context) error {
	version, want, err := tuf.RootDigest(f.root)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d.root.json", version)
	data, err := f.directory.Metadata(ctx, name, maxMetadata)
	if errors.Is(err, tuf.ErrNotFound) {
		return nil // other tools keep the newest alone
	}
	if err != nil {
		return err
	}
	_, got, err := tuf.RootDigest(data)
	if err == nil && got != want {
		err = fmt.Errorf("%w: it is another one: sha256:%x, not sha256:%x", tuf.ErrUnverified, got, want)
	}
	if err != nil {
		return fmt.Errorf("%s, which is the trusted root: %w", name, err)
	}
	return nil
}
