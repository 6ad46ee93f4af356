package tuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Refresh brings the top-level metadata up to date: sections 5.3 to 5.6 of the
// specification, against each repository in turn until one succeeds. Metadata
// that was verified before something failed stays in the store, as the
// specification has it; nothing that is lower than the [Floor] is ever used.
//
// If nothing has changed it costs two requests: the next root and the timestamp.
//
// From a [Sealed] repository, the expiry of the seal takes the place of that of
// the timestamp and the snapshot, which are short-lived and cannot be renewed
// on a USB stick. Signatures, versions and the expiry of root and targets count
// as ever.
func (c *Client) Refresh(ctx context.Context) error {
	c.trusted, c.current = nil, nil
	var errs []error
	for _, repo := range c.cfg.Repositories {
		t, err := c.refreshFrom(ctx, repo)
		if err == nil {
			c.trusted, c.current = t, repo
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (c *Client) refreshFrom(ctx context.Context, repo Repository) (*trust, error) {
	t, err := c.loadRoots()
	if err != nil {
		return nil, err
	}
	if err := c.walkRoots(ctx, repo, t); err != nil {
		return nil, err
	}
	if sealed, ok := repo.(Sealed); ok {
		if err := c.acceptSeal(ctx, sealed, t); err != nil {
			return nil, err
		}
	}
	if err := c.updateTimestamp(ctx, repo, t); err != nil {
		return nil, err
	}
	if err := c.updateSnapshot(ctx, repo, t); err != nil {
		return nil, err
	}
	if err := c.updateTargets(ctx, repo, t, RoleTargets, RoleRoot); err != nil {
		return nil, err
	}
	return t, nil
}

// loadRoots starts from the trusted root and follows the chain of cached ones
// as far as it verifies, so that the newest root that was ever verified counts
// and a forged cache does not.
func (c *Client) loadRoots() (*trust, error) {
	t, err := newTrust(c.cfg.TrustedRoot, c.cfg.Now)
	if err != nil {
		return nil, err
	}
	newest := c.cfg.TrustedRoot
	for {
		data, err := c.cfg.Store.LoadRoot(t.rootVersion() + 1)
		if err != nil || t.updateRoot(data) != nil {
			break
		}
		newest = data
	}
	if bytes.Equal(c.load(RoleRoot), newest) {
		return t, nil
	}
	return t, c.save(RoleRoot, newest)
}

// walkRoots is section 5.3. The walk ends where the repository says that there
// is no next root. Buckets say "forbidden" for that as often as "not found";
// anything else is a failure, or cutting the connection would freeze the root.
func (c *Client) walkRoots(ctx context.Context, repo Repository, t *trust) error {
	for range c.cfg.Limits.RootRotations {
		next := t.rootVersion() + 1
		data, err := c.fetch(ctx, repo, fmt.Sprintf("%d.root.json", next), c.cfg.Limits.Root)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrForbidden) {
			break
		}
		if err != nil {
			return err
		}
		if err := t.updateRoot(data); err != nil {
			return err
		}
		if err := c.cfg.Store.SaveRoot(next, data); err != nil {
			return fmt.Errorf("tuf: store root %d: %w: %w", next, ErrStore, err)
		}
		if err := c.save(RoleRoot, data); err != nil {
			return err
		}
	}
	if err := t.checkRootExpiry(); err != nil {
		return err
	}
	return c.checkFloor(ctx, t)
}

// updateTimestamp is section 5.4. The cached timestamp goes first: even expired
// it tells which versions were seen.
func (c *Client) updateTimestamp(ctx context.Context, repo Repository, t *trust) error {
	if local := c.load(RoleTimestamp); local != nil {
		_ = t.updateTimestamp(local) // not usable means not there
	}
	data, err := c.fetch(ctx, repo, RoleTimestamp+".json", c.cfg.Limits.Timestamp)
	if err != nil {
		return err
	}
	if err := t.seal.check(data); err != nil {
		return err
	}
	err = t.updateTimestamp(data)
	unchanged := errors.Is(err, errUnchanged)
	if err != nil && !unchanged {
		return err
	}
	if err := t.checkShortLived(RoleTimestamp, t.timestamp.Signed.Expires); err != nil {
		return err
	}
	if err := c.checkFloor(ctx, t); err != nil || unchanged {
		return err
	}
	return c.save(RoleTimestamp, data)
}

// updateSnapshot is section 5.5.
func (c *Client) updateSnapshot(ctx context.Context, repo Repository, t *trust) error {
	if local := c.load(RoleSnapshot); local != nil && t.updateSnapshot(local, true) == nil {
		return c.checkFloor(ctx, t)
	}
	meta := t.timestamp.Signed.Meta[RoleSnapshot+".json"]
	name, max := t.fileName(RoleSnapshot, meta), bound(meta, c.cfg.Limits.Snapshot)
	data, err := c.fetch(ctx, repo, name, max)
	if err != nil {
		return err
	}
	if err := t.updateSnapshot(data, false); err != nil {
		return err
	}
	if err := c.checkFloor(ctx, t); err != nil {
		return err
	}
	return c.save(RoleSnapshot, data)
}

// updateTargets is section 5.6, for the top-level role (whose delegator is
// root) and for delegated ones.
func (c *Client) updateTargets(ctx context.Context, repo Repository, t *trust, role, delegator string) error {
	if t.targets(role, delegator) != nil {
		return nil
	}
	if local := c.load(role); local != nil && t.updateTargets(role, delegator, local) == nil {
		return c.checkFloor(ctx, t)
	}
	meta := t.snapshot.Signed.Meta[role+".json"]
	if meta == nil {
		return fmt.Errorf("tuf: %s: %w: the snapshot does not name it", quote(role), ErrUnverified)
	}
	data, err := c.fetch(ctx, repo, t.fileName(role, meta), bound(meta, c.cfg.Limits.Targets))
	if err != nil {
		return err
	}
	if err := t.updateTargets(role, delegator, data); err != nil {
		return err
	}
	if err := c.checkFloor(ctx, t); err != nil {
		return err
	}
	return c.save(role, data)
}

// fileName is the name of a metadata file in the repository.
func (t *trust) fileName(role string, meta *metadata.MetaFiles) string {
	name := Escape(role) + ".json"
	if t.root.Signed.ConsistentSnapshot {
		name = strconv.FormatInt(meta.Version, 10) + "." + name
	}
	return name
}

// bound is the most bytes that a metadata file may have.
func bound(meta *metadata.MetaFiles, limit int64) int64 {
	if meta.Length > 0 {
		return min(meta.Length, limit)
	}
	return limit
}
