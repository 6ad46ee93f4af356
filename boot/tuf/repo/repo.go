// Package repo publishes a TUF repository: the files that any web server or
// bucket can serve, and that boot/tuf and every other TUF client can follow.
//
// A repository is a folder with metadata/ and targets/. A change is made by
// [Repo.Apply] under a lock. It is published when every role that it touches
// has the signatures that its threshold asks for; until then it is a draft,
// which other keys can sign later, on other machines. Keys are [crypto.Signer]s
// and never stored.
//
// A publication is one exchange of two folders, after everything is on the
// disk: whoever looks, and whenever the process is killed, there is the old
// repository or the new one.
//
// Repositories that other tools made work too, with their key identifiers and
// their layout.
package repo

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
)

// Names in the folder of a repository. Those with a dot are nobody else's.
const (
	draftDir   = ".draft"
	stagingDir = ".staging"
	lockFile   = ".lock"
)

const lockRetry = 50 * time.Millisecond

var (
	// ErrExists: there is a repository already.
	ErrExists = errors.New("there is a repository already")
	// ErrChange: the change makes no sense for this repository.
	ErrChange = errors.New("impossible change")
)

// Repo is a repository that this process has locked.
type Repo struct {
	dir  string
	lock *os.File

	// step is called between the steps of a publication. Tests die in it.
	step func()
}

// Exists says whether a folder holds a repository, or the draft of one.
func Exists(dir string) bool {
	for _, name := range []string{bundle.MetadataDir, draftDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// Open locks the repository in the folder dir, waiting for others until ctx
// ends, and clears away what a killed process left. The folder may be empty.
func Open(ctx context.Context, dir string) (*Repo, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no folder %s for a repository; \"sealboot tuf init %s\" makes one: %w", dir, dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the repository: %w", err)
	}
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock the repository %s: %w", dir, err), lock.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock the repository %s, which another process uses: %w", dir, context.Cause(ctx)), lock.Close())
		case <-time.After(lockRetry):
		}
	}
	r := &Repo{dir: dir, lock: lock, step: func() {}}
	if err := os.RemoveAll(r.path(stagingDir)); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close releases the lock.
func (r *Repo) Close() error { return r.lock.Close() }

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
// the draft.
func (r *Repo) Apply(ctx context.Context, now time.Time, keys []crypto.Signer, changes ...Change) (Status, error) {
	e, err := r.edit(now)
	if err != nil {
		return Status{}, err
	}
	if err := e.addDraft(); err != nil {
		return Status{}, err
	}
	if len(changes) == 0 && len(keys) > 0 && len(e.changed) > 0 && !e.anyTrusted(keys) {
		return Status{}, fmt.Errorf("%w: nothing in the draft is signed with a key that was given", ErrChange)
	}
	status, err := e.make(ctx, keys, changes)
	switch {
	case err != nil || len(status.Versions) == 0:
		return status, err
	case !status.Published:
		return status, r.saveDraft(e)
	}
	if err := r.publish(e); err != nil {
		return status, err
	}
	return status, r.DropDraft()
}

// Renew makes changes such as [Refresh] and what follows from them, whatever draft
// is waiting: a root that waits for signatures must not let the timestamp expire.
// It publishes or fails.
func (r *Repo) Renew(ctx context.Context, now time.Time, keys []crypto.Signer, changes ...Change) (Status, error) {
	e, err := r.edit(now)
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
	return status, r.publish(e)
}

// DropDraft forgets what is not published.
func (r *Repo) DropDraft() error { return os.RemoveAll(r.path(draftDir)) }

// edit loads what is published; nothing, if that is so.
func (r *Repo) edit(now time.Time) (*Edit, error) {
	published, err := readPublished(r.path(bundle.MetadataDir))
	if errors.Is(err, fs.ErrNotExist) {
		published, err = map[string]any{}, nil
	}
	if err != nil {
		return nil, err
	}
	return newEdit(r, now, published), nil
}

// addDraft puts the draft on top. A draft that is not the next version of what
// is published is out of date, and dropped: this process was killed before it
// could, or somebody published past it.
func (e *Edit) addDraft() error {
	draft, err := readRoles(e.repo.path(draftDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the draft: %w; drop it or repair it", err)
	}
	for name, role := range draft {
		old := int64(0)
		if p := e.published[name]; p != nil {
			old = *fieldsOf(p).version
		}
		if *fieldsOf(role).version == old+1 {
			continue
		}
		if name != tuf.RoleSnapshot && name != tuf.RoleTimestamp {
			return e.repo.DropDraft()
		}
		delete(draft, name) // renewed meanwhile; settle makes the next
	}
	for name, role := range draft {
		e.roles[name] = role
		e.changed[name] = true
	}
	return nil
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
	if err := e.sign(keys); err != nil {
		return Status{}, err
	}
	status := e.status()
	status.Published = len(status.Missing) == 0
	return status, nil
}
