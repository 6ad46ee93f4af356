// Package tufrepo publishes a TUF repository: the files that any web server or
// bucket can serve, and that boot/source/tuf and every other TUF client can follow.
//
// A repository is a directory with metadata/ and targets/. A change is made by
// [Repo.Apply] under a lock. It is published when every role that it touches
// has the signatures that its threshold asks for; until then it is a draft,
// which other keys can sign later, on other machines. Keys are [crypto.Signer]s
// and never stored.
//
// A publication is one exchange of two directories, after everything is on the
// disk: anyone who looks, and whenever the process is killed, there is the old
// repository or the new one.
//
// What lies in the directory is not trusted, not even by its publisher: a web server
// may own it. Every change begins with following what is published as a
// device would, from the root and the versions that the [Operator] remembers
// elsewhere, and signs nothing that it has not shown him.
//
// Repositories that other tools made work too, with their key identifiers and
// their layout.
package tufrepo

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
)

// Names in the directory of a repository. Those with a dot are no one else's.
const (
	draftDir   = ".draft"
	stagingDir = ".staging"
	lockName   = ".lock"
)

const lockRetry = 50 * time.Millisecond

var (
	// ErrExists: there is a repository already.
	ErrExists = errors.New("there is a repository already")
	// ErrChange: the change makes no sense for this repository.
	ErrChange = errors.New("impossible change")
	// ErrDraft: the draft is not one that this operator has seen.
	ErrDraft = errors.New("unknown draft")
)

// Repo is a repository that this process has locked, with its operator's memory of
// it.
type Repo struct {
	dir  string
	lock *os.File

	operator  Operator
	memory    memory
	stateLock *os.File

	// step is called between the steps of a publication. Tests die in it.
	step func()
}

// Exists says whether a directory holds a repository, or the draft of one.
func Exists(dir string) bool {
	for _, name := range []string{bundle.MetadataDir, draftDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// Open locks the repository in the directory dir and the state of its operator,
// waiting for others until ctx ends, and clears away what a killed process left.
// The directory may be empty.
func Open(ctx context.Context, dir string, operator Operator) (*Repo, error) {
	lock, err := lockFile(ctx, filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no directory %s for a repository; \"sealboot tuf init %s\" makes one: %w", dir, dir, err)
	}
	if err != nil {
		return nil, err
	}
	r := &Repo{dir: dir, lock: lock, operator: operator, step: func() {}}
	if err := r.openState(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := os.RemoveAll(r.path(stagingDir)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// lockFile locks a file, which is made for it, until it is closed. It is no link, or
// the owner of the directory could have it made elsewhere.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", filepath.Dir(name), err)
	}
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", filepath.Dir(name), err), lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s, which another process uses: %w", filepath.Dir(name), context.Cause(ctx)), lock.Close())
		case <-time.After(lockRetry):
		}
	}
}

// Close releases the locks.
func (r *Repo) Close() error {
	err := r.lock.Close()
	if r.stateLock != nil {
		err = errors.Join(err, r.stateLock.Close())
	}
	return err
}

func (r *Repo) path(name ...string) string {
	return filepath.Join(append([]string{r.dir}, name...)...)
}

// Status says what [Repo.Apply] came to.
type Status struct {
	// Published says whether clients see the change.
	Published bool
	// Versions are those of the roles that the change touches.
	Versions map[string]int64
	// Missing are the signatures that are still needed, by role.
	Missing map[string]Missing
}

// Missing is how many more signatures a role needs, and which keys can give
// them (by identifier). For a root that changes its keys, old and new keys count
// apart; Need is the larger number.
type Missing struct {
	Need int
	Keys []string
}

// Change is one step of a change; see the functions that return one.
type Change func(*Edit) error

// Apply makes changes, in order, on top of the draft if there is one, signs
// what it can with keys, and publishes if nothing is missing; else all of it is
// the draft now. Now is the time that lifetimes begin at. No changes means: sign
// the draft; no keys either: say what it lacks.
//
// A draft that this operator has not saved himself is signed on its own only, so
// that it is never taken along unseen.
func (r *Repo) Apply(ctx context.Context, now time.Time, keys []crypto.Signer, changes ...Change) (Status, error) {
	e, err := r.edit(ctx, now)
	if err != nil {
		return Status{}, err
	}
	if err := e.addDraft(); err != nil {
		return Status{}, err
	}
	if len(changes) > 0 && e.foreignDraft() {
		return Status{}, fmt.Errorf("%w: the draft in %s comes from somewhere else; look at it with \"sealboot tuf diff\", then add to it with \"sealboot tuf sign\" or drop it with \"sealboot tuf discard\"", ErrDraft, r.dir)
	}
	if len(changes) == 0 && len(keys) > 0 && len(e.changed) > 0 && !e.anyTrusted(keys) {
		return Status{}, fmt.Errorf("%w: nothing in the draft is signed with a key that was given", ErrChange)
	}
	status, err := e.make(ctx, keys, changes)
	switch {
	case err != nil || len(status.Versions) == 0:
		return status, err
	case len(changes) == 0 && len(keys) == 0:
		return status, nil // who only looks has not made the draft his own
	case !status.Published:
		return status, r.saveDraft(e)
	}
	if err := r.publish(ctx, e); err != nil {
		return status, err
	}
	return status, r.DropDraft()
}

// Renew makes changes such as [Refresh] and what follows from them, whatever draft
// is waiting: a root that waits for signatures must not let the timestamp expire.
// It publishes or fails.
func (r *Repo) Renew(ctx context.Context, now time.Time, keys []crypto.Signer, changes ...Change) (Status, error) {
	e, err := r.edit(ctx, now)
	if err != nil {
		return Status{}, err
	}
	status, err := e.make(ctx, keys, changes)
	if err != nil {
		return status, err
	}
	if !status.Published {
		return status, fmt.Errorf("%w: sign with a key of %s too", ErrChange, strings.Join(slices.Sorted(maps.Keys(status.Missing)), " and one of "))
	}
	return status, r.publish(ctx, e)
}

// Diff is what the draft would change; it has no roles if there is no draft.
func (r *Repo) Diff(ctx context.Context, now time.Time) (Diff, error) {
	e, err := r.edit(ctx, now)
	if err != nil {
		return Diff{}, err
	}
	if err := e.addDraft(); err != nil {
		return Diff{}, err
	}
	return e.diff(nil)
}

// DropDraft forgets what is not published.
func (r *Repo) DropDraft() error {
	if err := os.RemoveAll(r.path(draftDir)); err != nil {
		return fmt.Errorf("drop the draft: %w", err)
	}
	m := r.memory
	m.Drafts = nil
	return r.remember(m)
}

// edit loads what is published; nothing, if that is so.
func (r *Repo) edit(ctx context.Context, now time.Time) (*Edit, error) {
	p, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	return newEdit(r, now, p), nil
}

// make applies changes and signs.
func (e *Edit) make(ctx context.Context, keys []crypto.Signer, changes []Change) (Status, error) {
	for _, change := range changes {
		if err := context.Cause(ctx); err != nil {
			return Status{}, err
		}
		if err := change(e); err != nil {
			return Status{}, err
		}
	}
	if err := e.signable(); err != nil {
		return Status{}, err
	}
	if err := e.settle(); err != nil {
		return Status{}, err
	}
	if err := e.confirm(keys); err != nil {
		return Status{}, err
	}
	if err := e.sign(keys); err != nil {
		return Status{}, err
	}
	status := e.status()
	status.Published = len(status.Missing) == 0
	return status, nil
}
