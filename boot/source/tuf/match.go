package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// hop is one role to visit in a search, with the role that delegates to it.
type hop struct {
	delegation
	terminating bool
}

// responsible returns the roles that the delegator trusts with a target, in
// the order of their appearance.
//
// This is not left to go-tuf, which compares path hash prefixes with the
// base64 of the digest (the specification says hexadecimal).
func responsible(delegator string, d *metadata.Delegations, target string) []hop {
	if d == nil {
		return nil
	}
	if d.SuccinctRoles != nil {
		bin := d.SuccinctRoles.GetRolesForTarget(target)[0].Name
		return []hop{{delegation{delegator, bin}, true}}
	}
	var hops []hop
	for _, r := range d.Roles {
		if matches(&r, target) {
			hops = append(hops, hop{delegation{delegator, r.Name}, r.Terminating})
		}
	}
	return hops
}

// delegates says whether a role of that name is delegated to at all.
func delegates(d *metadata.Delegations, name string) bool {
	if s := d.SuccinctRoles; s != nil {
		return s.IsDelegatedRole(name)
	}
	return slices.ContainsFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == name })
}

func matches(r *metadata.DelegatedRole, target string) bool {
	for _, p := range r.Paths {
		if glob(p, target) {
			return true
		}
	}
	sum := sha256.Sum256([]byte(target))
	digest := hex.EncodeToString(sum[:])
	for _, p := range r.PathHashPrefixes {
		if p != "" && strings.HasPrefix(digest, p) {
			return true
		}
	}
	return false
}

// glob matches shell patterns, one part between slashes at a time, so that
// nothing in a pattern matches a slash. A pattern that is not valid matches
// nothing.
func glob(pattern, name string) bool {
	// Shells negate a class with "!", path.Match with "^".
	patterns := strings.Split(strings.ReplaceAll(pattern, "[!", "[^"), "/")
	parts := strings.Split(name, "/")
	if len(patterns) != len(parts) {
		return false
	}
	for i, p := range patterns {
		if ok, err := path.Match(p, parts[i]); !ok || err != nil {
			return false
		}
	}
	return true
}
