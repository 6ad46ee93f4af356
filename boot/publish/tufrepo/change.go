package tufrepo

import (
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

var topLevel = []string{tuf.RoleRoot, tuf.RoleTimestamp, tuf.RoleSnapshot, tuf.RoleTargets}

// Create begins a repository. Its roles have no keys yet: [AddKey] comes next,
// for each of the four.
func Create() Change {
	return func(e *Edit) error {
		if e.root() != nil {
			return ErrExists
		}
		roots := metadata.Root(e.now)
		e.roles = map[string]any{
			tuf.RoleRoot: roots, tuf.RoleTimestamp: metadata.Timestamp(e.now),
			tuf.RoleSnapshot: metadata.Snapshot(e.now), tuf.RoleTargets: metadata.Targets(e.now),
		}
		for _, name := range topLevel {
			if _, err := e.touch(name); err != nil {
				return err
			}
		}
		return nil
	}
}

// AddKey trusts a public key with a role. A top-level role is a matter of root,
// another one of its delegators; root or delegator get a new version.
func AddKey(role string, pub crypto.PublicKey) Change {
	return func(e *Edit) error {
		key, id, err := sign.PublicKey(pub)
		if err != nil {
			return err
		}
		return e.grants(role, func(keys map[string]*metadata.Key, ids *[]string, _ *int) error {
			if same := sign.IDs(keys, pub); len(same) > 0 {
				id = same[0] // under whatever name it has here
			} else {
				keys[id] = key
			}
			if slices.Contains(*ids, id) {
				return fmt.Errorf("%w: %s has that key already", ErrChange, role)
			}
			*ids = append(*ids, id)
			return nil
		})
	}
}

// RemoveKey takes a key, by its identifier, away from a role.
func RemoveKey(role, id string) Change {
	return func(e *Edit) error {
		return e.grants(role, func(_ map[string]*metadata.Key, ids *[]string, _ *int) error {
			i := slices.Index(*ids, id)
			if i < 0 {
				return fmt.Errorf("%w: %s has no key %s", ErrChange, role, id)
			}
			*ids = slices.Delete(*ids, i, i+1)
			return nil
		})
	}
}

// RemovePublicKey takes a key away from a role, whatever its identifier is.
func RemovePublicKey(role string, pub crypto.PublicKey) Change {
	return func(e *Edit) error {
		return e.grants(role, func(keys map[string]*metadata.Key, ids *[]string, _ *int) error {
			same, before := sign.IDs(keys, pub), len(*ids)
			*ids = slices.DeleteFunc(*ids, func(id string) bool { return slices.Contains(same, id) })
			if len(*ids) == before {
				return fmt.Errorf("%w: %s does not have that key", ErrChange, role)
			}
			return nil
		})
	}
}

// SetThreshold says how many keys must sign a role.
func SetThreshold(role string, n int) Change {
	return func(e *Edit) error {
		return e.grants(role, func(_ map[string]*metadata.Key, _ *[]string, threshold *int) error {
			if n < 1 {
				return fmt.Errorf("%w: threshold %d of %s", ErrChange, n, role)
			}
			*threshold = n
			return nil
		})
	}
}

// SetLifetime says for how long a role is valid when it is signed: whole hours,
// at least one.
func SetLifetime(role string, d time.Duration) Change {
	return func(e *Edit) error {
		if d < time.Hour {
			return fmt.Errorf("%w: lifetime %s of %s is shorter than an hour", ErrChange, d, role)
		}
		md, err := e.touch(role)
		if err != nil {
			return err
		}
		f := fieldsOf(md)
		f.setLifetime(d)
		*f.expires = e.now.Add(f.lifetime(role))
		return nil
	}
}

// Refresh signs a role anew, with a new version and expiry.
func Refresh(role string) Change {
	return func(e *Edit) error {
		_, err := e.touch(role)
		return err
	}
}

// grants changes keys and threshold of a role wherever they are written.
func (e *Edit) grants(role string, change func(keys map[string]*metadata.Key, ids *[]string, threshold *int) error) error {
	if slices.Contains(topLevel, role) {
		md, err := e.touch(tuf.RoleRoot)
		if err != nil {
			return err
		}
		root := &md.(*rootMD).Signed
		r := root.Roles[role]
		if r == nil {
			return fmt.Errorf("%w: the root has no role %s", ErrChange, role)
		}
		return change(root.Keys, &r.KeyIDs, &r.Threshold)
	}
	found := false
	for name := range e.roles {
		t, ok := e.roles[name].(*targetsMD)
		if !ok || t.Signed.Delegations == nil {
			continue
		}
		i := slices.IndexFunc(t.Signed.Delegations.Roles, func(d metadata.DelegatedRole) bool { return d.Name == role })
		if i < 0 {
			continue
		}
		md, err := e.touch(name)
		if err != nil {
			return err
		}
		d := md.(*targetsMD).Signed.Delegations
		if d.Keys == nil {
			d.Keys = map[string]*metadata.Key{}
		}
		if err := change(d.Keys, &d.Roles[i].KeyIDs, &d.Roles[i].Threshold); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%w: there is no role %q", ErrChange, role)
	}
	return nil
}

// Delegation is a role to delegate to.
type Delegation struct {
	Delegator   string // "targets" if empty
	Name        string
	Paths       []string // glob patterns
	Terminating bool
	Threshold   int // 1 if zero
	Keys        []crypto.PublicKey
}

// Delegate adds a role that may list targets of its own.
func Delegate(d Delegation) Change {
	return func(e *Edit) error {
		if d.Delegator == "" {
			d.Delegator = tuf.RoleTargets
		}
		if d.Name == "" || slices.Contains(topLevel, d.Name) || len(d.Paths) == 0 || len(d.Keys) < max(d.Threshold, 1) {
			return fmt.Errorf("%w: role %q needs a name of its own, paths, and as many keys as its threshold", ErrChange, d.Name)
		}
		if e.roles[d.Name] == nil { // other tools' roles have the names that they have
			if err := e.checkRoleName(d.Name); err != nil {
				return err
			}
		}
		t, err := e.targets(d.Delegator)
		if err != nil {
			return err
		}
		if t.Delegations == nil {
			t.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
		}
		if t.Delegations.SuccinctRoles != nil {
			return fmt.Errorf("%w: %s delegates to hash bins", ErrChange, d.Delegator)
		}
		if t.Delegations.Keys == nil { // another tool's
			t.Delegations.Keys = map[string]*metadata.Key{}
		}
		role := metadata.DelegatedRole{Name: d.Name, Threshold: max(d.Threshold, 1), Terminating: d.Terminating, Paths: d.Paths}
		for _, r := range t.Delegations.Roles {
			if r.Name == d.Name {
				return fmt.Errorf("%w: %s delegates to %s already", ErrChange, d.Delegator, d.Name)
			}
		}
		for _, pub := range d.Keys {
			key, id, err := sign.PublicKey(pub)
			if err != nil {
				return err
			}
			t.Delegations.Keys[id] = key
			role.KeyIDs = append(role.KeyIDs, id)
		}
		t.Delegations.Roles = append(t.Delegations.Roles, role)
		if e.roles[d.Name] == nil {
			e.roles[d.Name] = metadata.Targets(e.now)
		}
		_, err = e.touch(d.Name)
		return err
	}
}

// targets returns a targets role for changing.
func (e *Edit) targets(name string) (*metadata.TargetsType, error) {
	if _, ok := e.roles[name].(*targetsMD); !ok {
		return nil, fmt.Errorf("%w: there is no targets role %q", ErrChange, name)
	}
	md, err := e.touch(name)
	if err != nil {
		return nil, err
	}
	return &md.(*targetsMD).Signed, nil
}

// Target is a file to publish.
type Target struct {
	Role   string // "targets" if empty
	Name   string // how clients ask for it; may have slashes
	File   string // the file with its content
	Custom json.RawMessage
}

// AddTarget publishes a file, replacing one of that name in the same role. The
// file is copied at once, under a name that no client asks for before the
// metadata is published.
func AddTarget(t Target) Change {
	return func(e *Edit) error {
		if t.Role == "" {
			t.Role = tuf.RoleTargets
		}
		if err := checkTargetName(t.Name); err != nil {
			return err
		}
		role, err := e.targets(t.Role)
		if err != nil {
			return err
		}
		role.Targets[t.Name] = &metadata.TargetFiles{} // until its file is there
		if err := e.findable(t.Role, t.Name); err != nil {
			return err
		}
		src, err := os.Open(t.File)
		if err != nil {
			return fmt.Errorf("target %s: %w", t.Name, err)
		}
		defer src.Close()
		file, err := e.repo.copyTarget(t.Name, src, e.root().Signed.ConsistentSnapshot, e.published.roles)
		if err != nil {
			return fmt.Errorf("target %s: %w", t.Name, err)
		}
		if len(t.Custom) > 0 {
			file.Custom = &t.Custom
		}
		role.Targets[t.Name] = file
		return e.bootable(t.Name, file)
	}
}

// findable refuses a target that no device would find in this role: it is not asked for
// it, another role lists the name before, or too many are looked into before.
func (e *Edit) findable(role, target string) error {
	found, err := tuf.Locate(target, func(name string) *metadata.TargetsType {
		if t, ok := e.roles[name].(*targetsMD); ok {
			return &t.Signed
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w: no device would find the target in role %s: %w", ErrChange, role, err)
	case found != role:
		return fmt.Errorf("%w: devices would take %q from role %s, not from %s; remove it there first", ErrChange, target, found, role)
	}
	return nil
}

// bootable refuses an image that refers to targets which are not there.
func (e *Edit) bootable(name string, f *metadata.TargetFiles) error {
	names, err := e.repo.references(f, targetFile(name, f, e.root().Signed.ConsistentSnapshot))
	if err != nil {
		return fmt.Errorf("target %s: %w", name, err)
	}
	for _, n := range names {
		if findTarget(e.roles, n) == nil {
			return fmt.Errorf("%w: %s refers to the target %q, which is not there; add that first", ErrChange, name, n)
		}
	}
	return nil
}

// RemoveTarget stops publishing a target. Its file stays.
func RemoveTarget(roleName, name string) Change {
	return func(e *Edit) error {
		role, err := e.targets(roleName)
		if err != nil {
			return err
		}
		if role.Targets[name] == nil {
			return fmt.Errorf("%w: %s has no target %q", ErrChange, roleName, name)
		}
		delete(role.Targets, name)
		return nil
	}
}

// ReadKey reads a key file: a private key, or a public key to trust.
func ReadKey(path string) (crypto.Signer, crypto.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read a key: %w", err)
	}
	if pub, err := sign.ParsePublic(data); err == nil {
		return nil, pub, nil
	}
	key, err := sign.ParsePrivate(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, key.Public(), nil
}
