// Package tuf is the client side of The Update Framework: it decides which
// files a TUF repository vouches for, on a device that may have no clock and
// whose disk no one trusts.
//
// What a metadata file means is read with go-tuf's types. The verification, the
// workflow (section 5 of the TUF specification 1.0), the I/O and the persistence
// are this package's, because a boot loader needs what a desktop program does not:
//
//   - signatures are checked over the bytes that came, whatever other tools put
//     into them, and a file that two readers could understand differently is refused;
//   - nothing read from a server, a disk or a USB stick can make it panic or
//     take unbounded memory: sizes are checked before reading, the shape of the
//     JSON before parsing, and a panic of the parser becomes an error;
//   - every wait has a deadline and obeys its context;
//   - time comes from the caller, once, and is the same for a whole [Client.Refresh];
//   - what is stored is the bytes as they were received, written so that a power
//     cut leaves the old file or the new one; all of it is verified again when it
//     is loaded, starting from the root that the caller trusts;
//   - versions can be held above a [Floor] that outlives the disk;
//   - target files are streamed, never held in memory.
//
// A [Client] does no more requests than the workflow asks for.
package tuf

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Names of the top-level roles.
const (
	RoleRoot      = "root"
	RoleTimestamp = "timestamp"
	RoleSnapshot  = "snapshot"
	RoleTargets   = "targets"
)

// Repository is one place that metadata comes from: a web server ([Web]) or an
// offline bundle. Nothing that it returns is trusted.
type Repository interface {
	// String names the repository in messages.
	String() string
	// Metadata returns the whole metadata file called name, such as
	// "3.targets.json", which has at most max bytes. The error is [ErrNotFound]
	// or [ErrForbidden] if the repository says that there is no such file.
	Metadata(ctx context.Context, name string, max int64) ([]byte, error)
}

// Targets is where target files come from: web servers ([Fetched], [Streamed])
// or an offline bundle.
type Targets interface {
	// Target returns the target file at path, which is not escaped: complete,
	// exactly as want says, positioned at 0. The caller closes it. Bytes that
	// are anything else are an error, which is [ErrMismatch] if that is why.
	Target(ctx context.Context, path string, want Want) (*os.File, error)
}

// Sealed is a [Repository] with an expiry of its own, signed by the targets
// role: see [Client.Refresh].
type Sealed interface {
	Repository
	// Seal returns the signed statement. It is as untrusted as the rest.
	Seal(ctx context.Context, max int64) ([]byte, error)
}

// Store keeps the verified metadata between boots. It is a cache: a file that
// is missing, old or damaged costs a download, never trust.
// A role that it does not have is [fs.ErrNotExist].
type Store interface {
	// Load returns the current metadata of a role.
	Load(role string) ([]byte, error)
	// Save replaces it, durably and atomically. An error ends the refresh.
	Save(role string, data []byte) error
	// LoadRoot and SaveRoot keep every root since the first, by version.
	LoadRoot(version int64) ([]byte, error)
	SaveRoot(version int64, data []byte) error
}

// Config says what to trust and where to look. TrustedRoot, Store, Repositories
// and Now are needed, and Targets for [Client.Download].
type Config struct {
	// TrustedRoot is a root.json that is trusted because of where it comes from.
	TrustedRoot []byte
	// Store keeps verified metadata.
	Store Store
	// Repositories are mirrors of one repository, tried in this order.
	Repositories []Repository
	// Targets is where target files are.
	Targets Targets
	// Now is the time that expiry is judged against.
	Now time.Time
	// Floor, if not nil, refuses what is older than the device has seen.
	Floor Floor
	// Limits bounds what is read.
	Limits Limits
}

// Limits bounds what a repository can make the client read. A zero field has
// the default that is given with it.
type Limits struct {
	Root          int64         // bytes of a root, 512,000
	Timestamp     int64         // bytes of a timestamp, 16,384
	Snapshot      int64         // bytes of a snapshot, 2,000,000
	Targets       int64         // bytes of a targets role, 5,000,000
	RootRotations int           // new roots in one refresh, 256
	Delegations   int           // roles visited in one search, 32
	MetadataWait  time.Duration // for one metadata file, one minute; and a second more for every 2 KiB of its limit
}

// slowest is the rate in bytes per second below which a link is given up.
const slowest = 2 << 10

func (l Limits) withDefaults() Limits {
	def(&l.Root, 512_000)
	def(&l.Timestamp, 16_384)
	def(&l.Snapshot, 2_000_000)
	def(&l.Targets, 5_000_000)
	def(&l.RootRotations, 256)
	def(&l.Delegations, 32)
	def(&l.MetadataWait, time.Minute)
	return l
}

func def[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Client follows one TUF repository. It is not safe for concurrent use.
type Client struct {
	cfg     Config
	trusted *trust     // what the last successful Refresh established
	current Repository // the mirror it was established with
}

// New returns a client. It checks the configuration and the trusted root, and
// makes no request.
func New(cfg Config) (*Client, error) {
	if cfg.Store == nil || len(cfg.Repositories) == 0 || cfg.Now.IsZero() {
		return nil, fmt.Errorf("tuf: the configuration lacks a store, a repository or the time")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if _, err := newTrust(cfg.TrustedRoot, cfg.Now); err != nil {
		return nil, fmt.Errorf("tuf: trusted root: %w", err)
	}
	return &Client{cfg: cfg}, nil
}

// load returns the cached metadata of a role, or nil if there is none that can
// be read: a cache that cannot be read is an empty one.
func (c *Client) load(role string) []byte {
	data, err := c.cfg.Store.Load(role)
	if err != nil {
		return nil
	}
	return data
}

func (c *Client) save(role string, data []byte) error {
	if err := c.cfg.Store.Save(role, data); err != nil {
		return fmt.Errorf("tuf: store %s: %w: %w", role, ErrStore, err)
	}
	return nil
}

// fetch reads one metadata file within the deadline for it.
func (c *Client) fetch(ctx context.Context, repo Repository, name string, max int64) ([]byte, error) {
	wait := c.cfg.Limits.MetadataWait + time.Duration(max/slowest)*time.Second
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	data, err := repo.Metadata(ctx, name, max)
	if err != nil {
		return nil, fmt.Errorf("tuf: fetch %s from %s: %w", name, repo, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("tuf: fetch %s from %s: %w: more than %d bytes", name, repo, ErrTooLarge, max)
	}
	return data, nil
}
