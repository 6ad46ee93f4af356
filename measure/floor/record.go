package floor

import (
	"errors"
	"fmt"
	"time"
)

// ErrRollback means that something is older than the floor allows.
var ErrRollback = errors.New("older than the rollback floor")

// ErrJump means that a version is so far above the floor that none would be left
// above it: anyone who signed it, once, would have shut the machine out for ever.
var ErrJump = errors.New("version jumps too far ahead of the rollback floor")

// MaxJump is how far a version may be above the floor; a date to the second fits. A
// new machine, whose floor is 0, takes none above it.
const MaxJump = 1 << 46

// CheckPublished refuses an image version that a new machine does not take: publishers
// ask before they sign or push one. Version 0 is that of an image without one.
func CheckPublished(version uint64) error {
	if version > MaxJump {
		return fmt.Errorf("%w: image version %d, and a new machine takes none above %d", ErrJump, version, uint64(MaxJump))
	}
	return nil
}

// MaxVersion is the highest version of TUF metadata that a floor can hold.
const MaxVersion = 1<<48 - 1

// KeysetSize is how much of a keyset's SHA-256 a floor keeps, in bytes.
const KeysetSize = 16

// Role is the version of a TUF role under one set of keys. When root gives the
// role other keys its versions may begin anew: that is how a repository recovers
// from a thief who signed the highest version there is.
type Role struct {
	Version uint64 // 0 is unknown
	Keyset  [KeysetSize]byte
}

// Record is what a floor holds: how new things are that this machine has trusted.
// In a candidate to be checked, zero versions of TUF roles are unknown and pass.
type Record struct {
	RootVersion uint64   // of TUF's root role
	RootSHA256  [32]byte // of what that version's keys signed
	Timestamp   Role
	Snapshot    Role
	Targets     Role

	ImageVersion uint64    // of the operating system image; 0 is unversioned
	Time         time.Time // signed by somebody we trust; in whole seconds since 1970
}

// Check returns an error that is [ErrRollback] if the candidate is below the floor
// f in anything but its time, which a caller compares with its clock, and one that is
// [ErrJump] if it is too far above.
func (f Record) Check(candidate Record) error {
	if r := candidate.RootVersion; r != 0 {
		if r < f.RootVersion {
			return fmt.Errorf("%w: TUF root version %d, but %d was seen", ErrRollback, r, f.RootVersion)
		}
		if r == f.RootVersion && candidate.RootSHA256 != f.RootSHA256 {
			return fmt.Errorf("%w: another TUF root version %d than the one seen", ErrRollback, r)
		}
	}
	for _, role := range []struct {
		name             string
		floor, candidate Role
	}{
		{"timestamp", f.Timestamp, candidate.Timestamp},
		{"snapshot", f.Snapshot, candidate.Snapshot},
		{"targets", f.Targets, candidate.Targets},
	} {
		if role.candidate.below(role.floor) {
			return fmt.Errorf("%w: TUF %s version %d, but %d was seen under the same keys",
				ErrRollback, role.name, role.candidate.Version, role.floor.Version)
		}
		if role.candidate.above(role.floor) > MaxJump {
			return fmt.Errorf("%w: TUF %s version %d, after %d", ErrJump, role.name, role.candidate.Version, role.floor.Version)
		}
	}
	if candidate.ImageVersion == 0 && f.ImageVersion > 0 {
		return fmt.Errorf("%w: the image has no version, and %d is the lowest allowed", ErrRollback, f.ImageVersion)
	}
	if candidate.ImageVersion < f.ImageVersion {
		return fmt.Errorf("%w: image version %d, but %d is the lowest allowed", ErrRollback, candidate.ImageVersion, f.ImageVersion)
	}
	if candidate.ImageVersion-f.ImageVersion > MaxJump {
		return fmt.Errorf("%w: image version %d, after %d", ErrJump, candidate.ImageVersion, f.ImageVersion)
	}
	return nil
}

// Raised returns the floor lifted to a candidate that passed [Record.Check].
// Nothing in it is lower than in f, except for a role that has other keys now.
func (f Record) Raised(candidate Record) Record {
	if candidate.RootVersion > f.RootVersion {
		f.RootVersion, f.RootSHA256 = candidate.RootVersion, candidate.RootSHA256
	}
	f.Timestamp = f.Timestamp.raised(candidate.Timestamp)
	f.Snapshot = f.Snapshot.raised(candidate.Snapshot)
	f.Targets = f.Targets.raised(candidate.Targets)
	f.ImageVersion = max(f.ImageVersion, candidate.ImageVersion)
	if candidate.Time.After(f.Time) {
		f.Time = candidate.Time
	}
	return f
}

// above returns by how much r is above the floor, which counts for the same keys.
func (r Role) above(floor Role) uint64 {
	if r.Keyset != floor.Keyset {
		return r.Version
	}
	return max(r.Version, floor.Version) - floor.Version
}

func (r Role) below(floor Role) bool {
	return r.Version != 0 && r.Keyset == floor.Keyset && r.Version < floor.Version
}

func (r Role) raised(candidate Role) Role {
	if candidate.Version == 0 || candidate.below(r) {
		return r
	}
	return candidate
}
