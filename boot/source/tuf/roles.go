package tuf

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Never is a time for [Config].Now at which nothing has expired, for a publisher
// who has to read his own metadata to renew it. A device never uses it.
func Never() time.Time { return time.Time{}.Add(1) }

// Versions are those that the verified snapshot names, by role.
func (c *Client) Versions() map[string]int64 {
	versions := map[string]int64{}
	if c.trusted == nil {
		return versions
	}
	for file, meta := range c.trusted.snapshot.Signed.Meta {
		if role, ok := strings.CutSuffix(file, ".json"); ok {
			versions[role] = meta.Version
		}
	}
	return versions
}

// Delegated verifies every role that the snapshot names and that is delegated
// to, for each of its delegators, and returns the names of these roles. It needs a
// successful [Client.Refresh]. Devices do not ask for it: they verify what their
// target needs. A publisher does, since he builds on all of it. The metadata is in
// the [Store] afterwards.
func (c *Client) Delegated(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	names := slices.Sorted(maps.Keys(c.Versions()))
	todo := []delegation{{RoleRoot, RoleTargets}}
	for ; len(todo) > 0; todo = todo[1:] {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		role, err := c.visit(ctx, todo[0])
		if err != nil {
			return nil, err
		}
		if found[todo[0].role] {
			continue // met before: its own delegations are on the list
		}
		found[todo[0].role] = true
		err = guard(todo[0].role, func() error {
			for _, name := range names {
				if role.Delegations != nil && delegates(role.Delegations, name) {
					todo = append(todo, delegation{todo[0].role, name})
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	delete(found, RoleTargets)
	return slices.Sorted(maps.Keys(found)), nil
}

// RootDigest reads a root that is signed as it asks itself, and returns its version
// and the digest by which devices know it: of what its keys signed, whatever
// stands around that.
func RootDigest(data []byte) (version int64, digest [sha256.Size]byte, err error) {
	t, err := newTrust(data, Never())
	if err != nil {
		return 0, digest, err
	}
	return t.rootVersion(), t.rootSum, nil
}

// Check refuses what is not metadata of a role by its shape and content, before any
// signature is looked at.
func Check(role string, data []byte) error {
	return guard(role, func() (err error) {
		switch role {
		case RoleRoot:
			_, err = parse(role, data, checkRoot)
		case RoleTimestamp:
			_, err = parse(role, data, checkTimestamp)
		case RoleSnapshot:
			_, err = parse(role, data, checkSnapshot)
		default:
			_, err = parse(role, data, checkTargets)
		}
		return err
	})
}

// Payload returns what the signatures of a metadata file are over: the canonical
// form of its member "signed", whatever other tools put there.
func Payload(data []byte) ([]byte, error) {
	e, err := openScanned(data)
	if err != nil {
		return nil, err
	}
	return e.payload, nil
}

// Verify says whether so many of the keys called ids have signed a metadata file,
// by the rule that devices have.
func Verify(data []byte, keys map[string]*metadata.Key, ids []string, threshold int) error {
	return guard("metadata", func() error {
		e, err := openScanned(data)
		if err != nil {
			return err
		}
		return e.verifiedBy(grant{keys, ids, threshold})
	})
}

func openScanned(data []byte) (*envelope, error) {
	if err := scan(data); err != nil {
		return nil, fmt.Errorf("tuf: %w", err)
	}
	e, err := open(data)
	if err != nil {
		return nil, fmt.Errorf("tuf: %w: %w", ErrMalformed, err)
	}
	return e, nil
}
