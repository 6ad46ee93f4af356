package tuf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The checks below are of section 4 of the specification: what a file must
// contain for the workflow to make sense of it. They come before any signature
// is looked at, so they are bounded by the size of the file.

const (
	maxKeyBytes  = 8 << 10 // of a public key as it is written
	maxRoleKeys  = 1 << 10 // different keys of one role, each of which may cost a verification
	maxRoleName  = 200     // bytes of a role name
	specVersion1 = "1."    // the major version that is understood
)

func checkCommon(wantType, gotType, spec string, version int64, expires time.Time) error {
	switch {
	case gotType != wantType:
		return fmt.Errorf("its type is %s, not %s", quote(gotType), wantType)
	case !strings.HasPrefix(spec, specVersion1):
		return fmt.Errorf("it follows version %s of the specification", quote(spec))
	case version < 1:
		return fmt.Errorf("version %d", version)
	case expires.IsZero():
		return errors.New("it has no expiry")
	}
	return nil
}

func checkRoot(r *metadata.RootType) error {
	if err := checkCommon(RoleRoot, r.Type, r.SpecVersion, r.Version, r.Expires); err != nil {
		return err
	}
	if err := checkKeys(r.Keys); err != nil {
		return err
	}
	for _, name := range []string{RoleRoot, RoleTimestamp, RoleSnapshot, RoleTargets} {
		role := r.Roles[name]
		if role == nil {
			return fmt.Errorf("it has no role %s", name)
		}
		if err := checkThreshold(name, role.Threshold, role.KeyIDs); err != nil {
			return err
		}
	}
	return nil
}

func checkTimestamp(ts *metadata.TimestampType) error {
	if err := checkCommon(RoleTimestamp, ts.Type, ts.SpecVersion, ts.Version, ts.Expires); err != nil {
		return err
	}
	return checkMeta(ts.Meta, RoleSnapshot)
}

func checkSnapshot(s *metadata.SnapshotType) error {
	if err := checkCommon(RoleSnapshot, s.Type, s.SpecVersion, s.Version, s.Expires); err != nil {
		return err
	}
	return checkMeta(s.Meta, RoleTargets)
}

func checkMeta(meta map[string]*metadata.MetaFiles, needed string) error {
	if meta[needed+".json"] == nil {
		return fmt.Errorf("it does not name a %s", needed)
	}
	for name, m := range meta {
		if m == nil || m.Version < 1 || m.Length < 0 {
			return fmt.Errorf("its entry for %s has no version or a negative length", quote(name))
		}
	}
	return nil
}

func checkTargets(t *metadata.TargetsType) error {
	if err := checkCommon(RoleTargets, t.Type, t.SpecVersion, t.Version, t.Expires); err != nil {
		return err
	}
	for name, f := range t.Targets {
		if f == nil || f.Length < 0 {
			return fmt.Errorf("its target %s has no content or a negative length", quote(name))
		}
	}
	if t.Delegations == nil {
		return nil
	}
	return checkDelegations(t.Delegations)
}

func checkDelegations(d *metadata.Delegations) error {
	if err := checkKeys(d.Keys); err != nil {
		return err
	}
	if s := d.SuccinctRoles; s != nil {
		if d.Roles != nil {
			return errors.New("it has both roles and succinct roles")
		}
		if err := checkRoleName(s.NamePrefix); err != nil {
			return err
		}
		return checkThreshold(s.NamePrefix, s.Threshold, s.KeyIDs)
	}
	seen := map[string]bool{}
	for _, r := range d.Roles {
		if err := checkRoleName(r.Name); err != nil {
			return err
		}
		if seen[r.Name] {
			return fmt.Errorf("it delegates twice to %s", quote(r.Name))
		}
		seen[r.Name] = true
		if len(r.Paths) > 0 && len(r.PathHashPrefixes) > 0 {
			return fmt.Errorf("its role %s has both paths and path hash prefixes", quote(r.Name))
		}
		if err := checkThreshold(r.Name, r.Threshold, r.KeyIDs); err != nil {
			return err
		}
	}
	return nil
}

// checkRoleName keeps delegated roles away from the names, and so the files, of
// the top-level ones.
func checkRoleName(name string) error {
	switch {
	case name == "" || len(name) > maxRoleName:
		return fmt.Errorf("it delegates to a role whose name has %d bytes", len(name))
	case slices.Contains([]string{RoleRoot, RoleTimestamp, RoleSnapshot, RoleTargets}, name):
		return fmt.Errorf("it delegates to the top-level role %s", name)
	}
	return nil
}

func checkThreshold(role string, threshold int, keyIDs []string) error {
	if threshold < 1 || len(keyIDs) == 0 {
		return fmt.Errorf("its role %s has no threshold or no keys", quote(role))
	}
	different := map[string]bool{}
	for _, id := range keyIDs {
		if different[id] = true; len(different) > maxRoleKeys {
			return fmt.Errorf("its role %s has more than %d keys", quote(role), maxRoleKeys)
		}
	}
	return nil
}

func checkKeys(keys map[string]*metadata.Key) error {
	for id, k := range keys {
		if k == nil || len(k.Value.PublicKey) > maxKeyBytes {
			return fmt.Errorf("its key %s is missing or larger than %d bytes", quote(id), maxKeyBytes)
		}
	}
	return nil
}
