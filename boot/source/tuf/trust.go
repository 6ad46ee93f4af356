package tuf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// trust is the metadata verified so far in one refresh. What goes in is bytes,
// checked for shape and content first, and no panic of the parsers comes out.
type trust struct {
	root      *file[metadata.RootType]
	timestamp *file[metadata.TimestampType]
	snapshot  *file[metadata.SnapshotType]
	roles     map[string]*file[metadata.TargetsType]

	rootSum [sha256.Size]byte // digest of what the newest root's keys signed
	now     time.Time
	seal    *seal // of an offline bundle, or nil

	// delegated says through which delegator a role was verified. A role that
	// is met again through another one has to satisfy that one's keys too.
	delegated map[delegation]bool
}

type delegation struct{ delegator, role string }

// newTrust starts from a root that the caller trusts. It may be expired: only
// the last root may not.
func newTrust(root []byte, now time.Time) (*trust, error) {
	t := &trust{now: now, roles: map[string]*file[metadata.TargetsType]{}, delegated: map[delegation]bool{}}
	err := guard(RoleRoot, func() error {
		f, err := parse(RoleRoot, root, checkRoot)
		if err != nil {
			return err
		}
		return t.takeRoot(f)
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *trust) rootVersion() int64 { return t.root.Signed.Version }

// updateRoot accepts the next root: signed by the old one and by itself, and
// exactly one version higher.
func (t *trust) updateRoot(data []byte) error {
	return guard(RoleRoot, func() error {
		f, err := parse(RoleRoot, data, checkRoot)
		if err != nil {
			return err
		}
		if err := f.verifiedBy(grantOfRoot(&t.root.Signed, RoleRoot)); err != nil {
			return unverified(RoleRoot, fmt.Errorf("by the keys of root %d: %w", t.rootVersion(), err))
		}
		if f.Signed.Version != t.rootVersion()+1 {
			return unverified(RoleRoot, fmt.Errorf("version %d after %d", f.Signed.Version, t.rootVersion()))
		}
		return t.takeRoot(f)
	})
}

// takeRoot makes a root that has signed itself the newest one. What is
// remembered of it is the signed part alone: a mirror can add a space or leave a
// needless signature out, and a device that remembered the bytes would refuse
// every honest mirror after it.
func (t *trust) takeRoot(f *file[metadata.RootType]) error {
	if err := f.verifiedBy(grantOfRoot(&f.Signed, RoleRoot)); err != nil {
		return unverified(RoleRoot, fmt.Errorf("by its own keys: %w", err))
	}
	t.root, t.rootSum = f, sha256.Sum256(f.payload)
	return nil
}

// checkRootExpiry is section 5.3.10, for the last root.
func (t *trust) checkRootExpiry() error {
	return t.checkExpiry(RoleRoot, t.root.Signed.Expires)
}

func (t *trust) checkExpiry(role string, expires time.Time) error {
	if !t.now.Before(expires) {
		return fmt.Errorf("tuf: %s: %w at %s; it is %s", role, ErrExpired,
			expires.UTC().Format(time.RFC3339), t.now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkShortLived is checkExpiry for the timestamp and the snapshot, whose place
// the seal of a bundle takes.
func (t *trust) checkShortLived(role string, expires time.Time) error {
	if t.seal != nil {
		return nil
	}
	return t.checkExpiry(role, expires)
}

// errUnchanged: the timestamp has the version of the one that is trusted.
var errUnchanged = errors.New("unchanged")

// updateTimestamp accepts a timestamp that is not older than the trusted one:
// section 5.4.3. An expired one is refused, but remembered for the rollback check
// of the next (a cached one that has expired must still hold versions up).
func (t *trust) updateTimestamp(data []byte) error {
	return guard(RoleTimestamp, func() error {
		f, err := parse(RoleTimestamp, data, checkTimestamp)
		if err != nil {
			return err
		}
		if err := f.verifiedBy(grantOfRoot(&t.root.Signed, RoleTimestamp)); err != nil {
			return unverified(RoleTimestamp, err)
		}
		if old := t.timestamp; old != nil {
			if f.Signed.Version == old.Signed.Version {
				return errUnchanged
			}
			if f.Signed.Version < old.Signed.Version {
				return unverified(RoleTimestamp, fmt.Errorf("version %d after %d", f.Signed.Version, old.Signed.Version))
			}
			if err := notOlder(old.Signed.Meta, f.Signed.Meta); err != nil {
				return unverified(RoleTimestamp, err)
			}
		}
		t.timestamp = f
		return t.checkShortLived(RoleTimestamp, f.Signed.Expires)
	})
}

// notOlder says whether every file that old names is there, and none of a lower
// version.
func notOlder(old, meta map[string]*metadata.MetaFiles) error {
	for name, o := range old {
		m := meta[name]
		if m == nil {
			return fmt.Errorf("%s is missing, which was at version %d", quote(name), o.Version)
		}
		if m.Version < o.Version {
			return fmt.Errorf("%s of version %d after %d", quote(name), m.Version, o.Version)
		}
	}
	return nil
}

// updateSnapshot accepts the snapshot that the timestamp names. One from the
// cache was compared with its timestamp when it came, so its digest is not
// compared with the new timestamp; its version is. What is not the last one is
// remembered all the same, for the rollback check of the next.
func (t *trust) updateSnapshot(data []byte, cached bool) error {
	return guard(RoleSnapshot, func() error {
		meta := t.timestamp.Signed.Meta[RoleSnapshot+".json"]
		if !cached {
			if err := meta.VerifyLengthHashes(data); err != nil {
				return unverified(RoleSnapshot, err)
			}
		}
		f, err := parse(RoleSnapshot, data, checkSnapshot)
		if err != nil {
			return err
		}
		if err := f.verifiedBy(grantOfRoot(&t.root.Signed, RoleSnapshot)); err != nil {
			return unverified(RoleSnapshot, err)
		}
		if t.snapshot != nil {
			if err := notOlder(t.snapshot.Signed.Meta, f.Signed.Meta); err != nil {
				return unverified(RoleSnapshot, err)
			}
		}
		t.snapshot = f
		if f.Signed.Version != meta.Version {
			return unverified(RoleSnapshot, fmt.Errorf("version %d, the timestamp names %d", f.Signed.Version, meta.Version))
		}
		return t.checkShortLived(RoleSnapshot, f.Signed.Expires)
	})
}

// updateTargets accepts the targets metadata of role that the snapshot names,
// signed as the delegator asks.
func (t *trust) updateTargets(role, delegator string, data []byte) error {
	return guard(role, func() error {
		meta := t.snapshot.Signed.Meta[role+".json"]
		if meta == nil {
			return unverified(role, errors.New("the snapshot does not name it"))
		}
		if err := meta.VerifyLengthHashes(data); err != nil {
			return unverified(role, err)
		}
		f, err := parse(role, data, checkTargets)
		if err != nil {
			return err
		}
		if err := t.checkExpiry(role, f.Signed.Expires); err != nil {
			return err
		}
		if err := f.verifiedBy(t.grant(role, delegator)); err != nil {
			return unverified(role, err)
		}
		if f.Signed.Version != meta.Version {
			return unverified(role, fmt.Errorf("version %d, the snapshot names %d", f.Signed.Version, meta.Version))
		}
		t.roles[role] = f
		t.delegated[delegation{delegator, role}] = true
		return nil
	})
}

// grant is what a delegator, whose metadata was verified, says of a role.
func (t *trust) grant(role, delegator string) grant {
	if delegator == RoleRoot {
		return grantOfRoot(&t.root.Signed, role)
	}
	d := t.roles[delegator]
	if d == nil {
		return grant{}
	}
	return grantOfTargets(&d.Signed, role)
}

// targets returns the metadata of a role if it was verified for that delegator.
func (t *trust) targets(role, delegator string) *metadata.TargetsType {
	if !t.delegated[delegation{delegator, role}] {
		return nil
	}
	return &t.roles[role].Signed
}
