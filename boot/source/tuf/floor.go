package tuf

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sealboot/sealboot/measure/event"
)

// State is what a rollback floor holds: how new the metadata is. A version of
// zero is one that is not known yet.
type State struct {
	RootVersion int64
	RootSHA256  [sha256.Size]byte // of the canonical JSON that root's keys signed
	Timestamp   RoleState
	Snapshot    RoleState
	Targets     RoleState
}

// RoleState is the version of a role and a digest of the keys that it was
// verified with. A floor counts only for the same keys: when root rotates
// them, versions may start again, which is how a repository recovers from a
// thief who signed a version of two billion (section 5.3.11).
type RoleState struct {
	Version int64
	Keys    [sha256.Size]byte
}

// Floor refuses metadata that is older than what the device has seen, even if
// the disk that remembers it is gone.
type Floor interface {
	// Check returns an error that is [ErrRollback] if s is below the floor. It
	// is asked after every role that was verified, with what is known so far.
	Check(ctx context.Context, s State) error
	// Raise lifts the floor to s. It never lowers a version of the same keys.
	Raise(ctx context.Context, s State) error
}

// Below says what of s is older than floor, or nil: the rule of every [Floor].
func (s State) Below(floor State) error {
	switch {
	case s.RootVersion < floor.RootVersion:
		return fmt.Errorf("%w: root %d, seen %d", ErrRollback, s.RootVersion, floor.RootVersion)
	case s.RootVersion == floor.RootVersion && s.RootSHA256 != floor.RootSHA256:
		return fmt.Errorf("%w: another root %d than the one seen", ErrRollback, s.RootVersion)
	}
	return errors.Join(
		s.Timestamp.below(RoleTimestamp, floor.Timestamp),
		s.Snapshot.below(RoleSnapshot, floor.Snapshot),
		s.Targets.below(RoleTargets, floor.Targets))
}

func (r RoleState) below(role string, floor RoleState) error {
	if r.Version != 0 && r.Keys == floor.Keys && r.Version < floor.Version {
		return fmt.Errorf("%w: %s %d, seen %d", ErrRollback, role, r.Version, floor.Version)
	}
	return nil
}

// Raised returns floor lifted to s: a version of the same keys never falls, one
// of other keys begins anew.
func (s State) Raised(floor State) State {
	if s.RootVersion < floor.RootVersion {
		s.RootVersion, s.RootSHA256 = floor.RootVersion, floor.RootSHA256
	}
	s.Timestamp = s.Timestamp.raised(floor.Timestamp)
	s.Snapshot = s.Snapshot.raised(floor.Snapshot)
	s.Targets = s.Targets.raised(floor.Targets)
	return s
}

func (r RoleState) raised(floor RoleState) RoleState {
	if r.Version == 0 || r.Keys == floor.Keys && r.Version < floor.Version {
		return floor
	}
	return r
}

func (c *Client) checkFloor(ctx context.Context, t *trust) error {
	if c.cfg.Floor == nil {
		return nil
	}
	s, err := t.state()
	if err != nil {
		return err
	}
	if err := c.cfg.Floor.Check(ctx, s); err != nil {
		return fmt.Errorf("tuf: %w", err)
	}
	return nil
}

// State returns what the last successful [Client.Refresh] established, for the
// caller to raise a floor with once it has decided to boot.
func (c *Client) State() (State, error) {
	if c.trusted == nil {
		return State{}, errors.New("tuf: state: there is no verified metadata; refresh first")
	}
	return c.trusted.state()
}

// state collects versions and keys. What resets a role's floor is what makes a
// client forget its version: the timestamp tells the snapshot's version, the
// snapshot that of targets, so the keys of the role above count too.
func (t *trust) state() (State, error) {
	s := State{RootVersion: t.rootVersion(), RootSHA256: t.rootSum}
	err := guard(RoleRoot, func() error {
		keys := func(roles ...string) (sum [sha256.Size]byte) {
			h := sha256.New()
			for _, r := range roles {
				h.Write(t.keySet(r))
			}
			h.Sum(sum[:0])
			return sum
		}
		if ts := t.timestamp; ts != nil {
			s.Timestamp = RoleState{ts.Signed.Version, keys(RoleTimestamp)}
		}
		if sn := t.snapshot; sn != nil && sn.Signed.Version == t.timestamp.Signed.Meta[RoleSnapshot+".json"].Version {
			s.Snapshot = RoleState{sn.Signed.Version, keys(RoleTimestamp, RoleSnapshot)}
		}
		if tg := t.targets(RoleTargets, RoleRoot); tg != nil {
			s.Targets = RoleState{tg.Version, keys(RoleSnapshot, RoleTargets)}
		}
		return nil
	})
	return s, err
}

// keySet is a digest of the threshold and the public keys of a top-level role,
// whatever their order and identifiers.
func (t *trust) keySet(role string) []byte {
	r := t.root.Signed.Roles[role]
	var keys []string
	for _, id := range r.KeyIDs {
		if k := t.root.Signed.Keys[id]; k != nil {
			if _, der, err := publicKey(k); err == nil { // a key that cannot be used verified nothing
				keys = append(keys, der)
			}
		}
	}
	slices.Sort(keys)
	h := sha256.New()
	h.Write([]byte("sealboot/tuf/keyset/v1\x00"))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(r.Threshold)))
	for _, k := range slices.Compact(keys) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(k))))
		h.Write([]byte(k))
	}
	return h.Sum(nil)
}

// Provenance returns the record that says why the target may run, for PCR 13:
// the root and the versions of the roles that vouched for it.
func (c *Client) Provenance(t *Target) (event.Record, error) {
	if c.trusted == nil {
		return event.Record{}, errors.New("tuf: provenance: there is no verified metadata; refresh first")
	}
	s, err := c.trusted.state()
	if err != nil {
		return event.Record{}, err
	}
	number := func(v int64) string { return strconv.FormatInt(v, 10) }
	r := event.Record{
		Type:   event.TypeProvenance,
		Name:   "tuf",
		SHA256: fmt.Sprintf("%x", s.RootSHA256),
		Detail: map[string]string{
			"root":        number(s.RootVersion),
			"timestamp":   number(s.Timestamp.Version),
			"snapshot":    number(s.Snapshot.Version),
			"targets":     number(s.Targets.Version),
			"target":      t.Name,
			"role":        t.Role,
			"roleVersion": number(t.RoleVersion),
		},
	}
	if _, err := r.Marshal(); err != nil {
		return event.Record{}, fmt.Errorf("tuf: provenance of %s: %w", quote(t.Name), err)
	}
	return r, nil
}
