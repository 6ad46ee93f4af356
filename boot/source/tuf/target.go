package tuf

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Target is a file that verified metadata vouches for.
type Target struct {
	Name   string
	Want   Want
	Custom json.RawMessage // as it was signed, or nil
	// Role is the role that lists the target and RoleVersion its version.
	Role        string
	RoleVersion int64
}

// Find looks a target up: section 5.6.7, a depth-first search in the order of
// the delegations. Metadata of delegated roles is fetched as it is needed. It
// needs a successful [Client.Refresh]; the error is [ErrNoTarget] if no role
// that is trusted with the name lists it.
func (c *Client) Find(ctx context.Context, name string) (*Target, error) {
	if c.trusted == nil {
		return nil, errors.New("tuf: find: there is no verified metadata; refresh first")
	}
	role, f, version, err := search(name, c.cfg.Limits.Delegations, func(d delegation) (*metadata.TargetsType, error) {
		return c.visit(ctx, d)
	})
	if err != nil {
		return nil, err
	}
	return newTarget(name, f, role, version)
}

// Locate is [Client.Find] for a publisher, who has all roles at hand: it returns the role
// in which a device with the default [Limits] finds a target. A role that is not there is nil.
func Locate(name string, roles func(name string) *metadata.TargetsType) (role string, err error) {
	role, _, _, err = search(name, Limits{}.withDefaults().Delegations, func(d delegation) (*metadata.TargetsType, error) {
		if t := roles(d.role); t != nil {
			return t, nil
		}
		return nil, fmt.Errorf("tuf: target %s: %w: role %s is not there", quote(name), ErrNotFound, quote(d.role))
	})
	return role, err
}

// search visits at most limit roles for a target.
func search(name string, limit int, visit func(delegation) (*metadata.TargetsType, error)) (role string, f *metadata.TargetFiles, version int64, err error) {
	visited := map[string]bool{}
	todo := []hop{{delegation: delegation{RoleRoot, RoleTargets}}}
	for len(todo) > 0 {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if visited[next.role] {
			continue
		}
		if len(visited) == limit {
			return "", nil, 0, fmt.Errorf("tuf: target %s: %w within %d delegated roles", quote(name), ErrNoTarget, len(visited))
		}
		visited[next.role] = true
		t, err := visit(next.delegation)
		if err != nil {
			return "", nil, 0, err
		}
		if f := t.Targets[name]; f != nil {
			return next.role, f, t.Version, nil
		}
		hops := responsible(next.role, t.Delegations, name)
		if i := slices.IndexFunc(hops, func(h hop) bool { return h.terminating }); i >= 0 {
			hops, todo = hops[:i+1], nil
		}
		slices.Reverse(hops)
		todo = append(todo, hops...)
	}
	return "", nil, 0, fmt.Errorf("tuf: target %s: %w", quote(name), ErrNoTarget)
}

// visit returns the metadata of a role, verified for this delegator. Every
// mirror may try: the snapshot says what the answer must be.
func (c *Client) visit(ctx context.Context, d delegation) (*metadata.TargetsType, error) {
	var errs []error
	for _, repo := range c.mirrors() {
		err := c.updateTargets(ctx, repo, c.trusted, d.role, d.delegator)
		if err == nil {
			return c.trusted.targets(d.role, d.delegator), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// mirrors returns the repositories, the one of the last refresh first.
func (c *Client) mirrors() []Repository {
	m := []Repository{c.current}
	for _, r := range c.cfg.Repositories {
		if r != c.current {
			m = append(m, r)
		}
	}
	return m
}

func newTarget(name string, f *metadata.TargetFiles, role string, version int64) (*Target, error) {
	t := &Target{Name: name, Want: wantOf(f), Role: role, RoleVersion: version}
	if f.Custom != nil {
		t.Custom = *f.Custom
	}
	if t.Want.SHA256 == nil && t.Want.SHA512 == nil {
		return nil, fmt.Errorf("tuf: target %s: %w: no digest that is understood", quote(name), ErrMalformed)
	}
	return t, nil
}

func wantOf(f *metadata.TargetFiles) Want {
	return Want{Size: f.Length, SHA256: f.Hashes["sha256"], SHA512: f.Hashes["sha512"]}
}

// Download returns the target, complete and verified, in a file positioned at 0
// that the caller closes.
func (c *Client) Download(ctx context.Context, t *Target) (*os.File, error) {
	if c.trusted == nil || c.cfg.Targets == nil {
		return nil, errors.New("tuf: download: there is no verified metadata, or no place to download from")
	}
	f, err := c.cfg.Targets.Target(ctx, c.targetPath(t), t.Want)
	if err != nil {
		return nil, fmt.Errorf("tuf: target %s: %w", quote(t.Name), err)
	}
	return f, nil
}

// targetPath is where the target is in the repository: with consistent
// snapshots, its digest goes before the file name.
func (c *Client) targetPath(t *Target) string {
	if !c.trusted.root.Signed.ConsistentSnapshot {
		return t.Name
	}
	digest := t.Want.SHA256
	if digest == nil {
		digest = t.Want.SHA512
	}
	dir, file := path.Split(t.Name)
	return dir + hex.EncodeToString(digest) + "." + file
}
