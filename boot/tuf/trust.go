package tuf

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// trust is the metadata verified so far in one refresh. It stands between
// go-tuf and everything else: what goes in is bytes, checked for shape and
// content first, and no panic comes out.
type trust struct {
	set  *trustedmetadata.TrustedMetadata
	root [sha256.Size]byte // digest of what the newest root's keys signed
	now  time.Time
	seal *seal // of an offline bundle, or nil

	// delegated says through which delegator a role was verified. A role that
	// is met again through another one has to satisfy that one's keys too.
	delegated map[delegation]bool
}

type delegation struct{ delegator, role string }

// newTrust starts from a root that the caller trusts. It may be expired: only
// the last root may not.
func newTrust(root []byte, now time.Time) (*trust, error) {
	t := &trust{now: now, delegated: map[delegation]bool{}}
	err := guard(RoleRoot, func() error {
		if _, err := parse(RoleRoot, root, checkRoot); err != nil {
			return err
		}
		var err error
		if t.set, err = trustedmetadata.New(root); err != nil {
			return unverified(RoleRoot, err)
		}
		t.set.RefTime = now
		return t.noteRoot()
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *trust) rootVersion() int64 { return t.set.Root.Signed.Version }

// updateRoot accepts the next root: signed by the old one and by itself, and
// exactly one version higher.
func (t *trust) updateRoot(data []byte) error {
	return guard(RoleRoot, func() error {
		if _, err := parse(RoleRoot, data, checkRoot); err != nil {
			return err
		}
		if _, err := t.set.UpdateRoot(data); err != nil {
			return unverified(RoleRoot, err)
		}
		return t.noteRoot()
	})
}

// noteRoot remembers which root it is. The digest is of the signed part alone: a
// mirror can add a space or leave a needless signature out, and a device that
// remembered the bytes would refuse every honest mirror after it.
func (t *trust) noteRoot() error {
	signed, err := cjson.EncodeCanonical(t.set.Root.Signed)
	if err != nil {
		return fmt.Errorf("tuf: root: %w: %w", ErrMalformed, err)
	}
	t.root = sha256.Sum256(signed)
	return nil
}

// checkRootExpiry is section 5.3.10, for the last root.
func (t *trust) checkRootExpiry() error {
	return t.checkExpiry(RoleRoot, t.set.Root.Signed.Expires)
}

func (t *trust) checkExpiry(role string, expires time.Time) error {
	if !t.now.Before(expires) {
		return fmt.Errorf("tuf: %s: %w at %s; it is %s", role, ErrExpired,
			expires.UTC().Format(time.RFC3339), t.now.UTC().Format(time.RFC3339))
	}
	return nil
}

// errUnchanged: the timestamp has the version of the one that is trusted.
var errUnchanged = errors.New("unchanged")

// updateTimestamp accepts a timestamp that is not older than the trusted one.
// An expired one is refused, but remembered for the rollback check of the next
// (a cached one that has expired must still hold versions up).
func (t *trust) updateTimestamp(data []byte) error {
	return guard(RoleTimestamp, func() error {
		if _, err := parse(RoleTimestamp, data, checkTimestamp); err != nil {
			return err
		}
		_, err := t.set.UpdateTimestamp(data)
		switch {
		case errors.Is(err, &metadata.ErrEqualVersionNumber{}):
			return errUnchanged
		case err != nil:
			return unverified(RoleTimestamp, err)
		}
		return nil
	})
}

// updateSnapshot accepts the snapshot that the timestamp names. One from the
// cache was compared with its timestamp when it came, so its digest is not
// compared with the new timestamp; its version is.
func (t *trust) updateSnapshot(data []byte, cached bool) error {
	return guard(RoleSnapshot, func() error {
		if _, err := parse(RoleSnapshot, data, checkSnapshot); err != nil {
			return err
		}
		if _, err := t.set.UpdateSnapshot(data, cached); err != nil {
			return unverified(RoleSnapshot, err)
		}
		return nil
	})
}

// updateTargets accepts the targets metadata of role that the snapshot names,
// signed as the delegator asks.
func (t *trust) updateTargets(role, delegator string, data []byte) error {
	return guard(role, func() error {
		md, err := parse(role, data, checkTargets)
		if err != nil {
			return err
		}
		if err := t.checkExpiry(role, md.Signed.Expires); err != nil {
			return err
		}
		if _, err := t.set.UpdateDelegatedTargets(data, role, delegator); err != nil {
			return unverified(role, err)
		}
		t.delegated[delegation{delegator, role}] = true
		return nil
	})
}

// targets returns the metadata of a role if it was verified for that delegator.
func (t *trust) targets(role, delegator string) *metadata.TargetsType {
	if !t.delegated[delegation{delegator, role}] {
		return nil
	}
	return &t.set.Targets[role].Signed
}

// parse checks the shape of data, then its content. It also keeps what go-tuf
// would stumble over away from it.
func parse[T metadata.Roles](role string, data []byte, check func(*T) error) (*metadata.Metadata[T], error) {
	if err := scan(data); err != nil {
		return nil, fmt.Errorf("tuf: %s: %w", role, err)
	}
	md := new(metadata.Metadata[T])
	if err := json.Unmarshal(data, md); err != nil {
		return nil, fmt.Errorf("tuf: %s: %w: %w", role, ErrMalformed, err)
	}
	if err := check(&md.Signed); err != nil {
		return nil, fmt.Errorf("tuf: %s: %w: %w", role, ErrMalformed, err)
	}
	return md, nil
}
