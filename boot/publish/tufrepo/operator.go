package tufrepo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/atomicfile"
	"github.com/sealboot/sealboot/measure/strict"
)

// ErrUntrusted: this operator has no root to verify the repository from.
var ErrUntrusted = errors.New("there is no trusted root for this repository")

// ErrTrusted: this operator has such a root already.
var ErrTrusted = errors.New("this repository has a trusted root already")

// Operator is the side of a repository that does not lie in its directory, which a
// web server may own and anybody may have changed.
type Operator struct {
	// State is the directory of what this operator remembers: the root that he trusts
	// and the highest versions that he has published or seen. It is outside the
	// repository, and is made when it is needed.
	State string
	// Confirm is shown what would be signed, before anything is, and ends the
	// change with an error. Nil agrees to everything.
	Confirm func(Diff) error
}

// DefaultState is the directory in which the user's programs remember the repository
// in the directory dir, unless they are told another.
func DefaultState(dir string) (string, error) {
	abs, err := realPath(dir)
	if err != nil {
		return "", fmt.Errorf("find the repository %s: %w", dir, err)
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the directory of the operator's state (name one with --state): %w", err)
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(config, "sealboot", "tuf", fmt.Sprintf("%x", sum[:8])), nil
}

// realPath follows the links of the part of a path that exists.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(abs) != abs {
		parent, err := realPath(filepath.Dir(abs))
		return filepath.Join(parent, filepath.Base(abs)), err
	}
	return real, err
}

const (
	memoryFile = "trust.json"
	maxMemory  = 16 << 20 // bytes
	maxDrafts  = 2        // the one in the directory, and the one about to be
)

// memoryVersion is that of the file.
const memoryVersion = 1

// memory is what an operator remembers. It is one file, replaced in one step.
type memory struct {
	Version int `json:"version,omitempty"` // of the file; 0 is 1, the only one
	// Root is trusted because of where it came from. Everything is verified from it.
	Root []byte
	// Seen and Versions are the highest of what was verified: of the top-level
	// roles, with their keys, and of all that the snapshot named.
	Seen     tuf.State
	Versions map[string]int64
	// Drafts are the digests of the last drafts that this operator has saved.
	Drafts []string
}

var _ tuf.Floor = (*memory)(nil)

// Check implements [tuf.Floor].
func (m *memory) Check(_ context.Context, s tuf.State) error { return s.Below(m.Seen) }

// Raise implements [tuf.Floor].
func (m *memory) Raise(_ context.Context, s tuf.State) error {
	m.Seen = s.Raised(m.Seen)
	return nil
}

// checkDelegated refuses delegated roles that fell or vanished. The top-level ones
// are [memory.Check]'s.
func (m *memory) checkDelegated(versions map[string]int64) error {
	for _, role := range slices.Sorted(maps.Keys(m.Versions)) {
		if role != tuf.RoleTargets && versions[role] < m.Versions[role] {
			return fmt.Errorf("%w: %q %d, seen %d", tuf.ErrRollback, role, versions[role], m.Versions[role])
		}
	}
	return nil
}

// note raises what was seen to p.
func (m *memory) note(ctx context.Context, p *published) error {
	versions := maps.Clone(p.versions)
	for role, v := range m.Versions {
		if role != tuf.RoleTargets {
			versions[role] = max(versions[role], v)
		}
	}
	m.Versions = versions
	return m.Raise(ctx, p.state)
}

// openState locks the operator's state and reads it. No file is no memory; one
// that cannot be read is an error, or damaging it would be a way to lower it.
func (r *Repo) openState(ctx context.Context) error {
	if err := outside(r.operator.State, r.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(r.operator.State, 0o700); err != nil {
		return fmt.Errorf("make the directory of the operator's state: %w", err)
	}
	st, err := os.Stat(r.operator.State)
	if err != nil {
		return fmt.Errorf("look at the operator's state: %w", err)
	}
	if owner := st.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() && owner != 0 {
		return fmt.Errorf("the directory %s of the operator's state belongs to another user (%d), who can change it; name one of your own", r.operator.State, owner)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("the directory %s of the operator's state can be written by others (%s); take that right away", r.operator.State, st.Mode())
	}
	if r.stateLock, err = lockFile(ctx, filepath.Join(r.operator.State, lockName)); err != nil {
		return err
	}
	return r.readMemory()
}

// outside refuses a state that would be published along with what it guards.
func outside(state, dir string) error {
	if state == "" {
		return errors.New("no directory is named for the operator's state")
	}
	s, err := realPath(state)
	if err != nil {
		return fmt.Errorf("find the operator's state: %w", err)
	}
	d, err := realPath(dir)
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	if rel, err := filepath.Rel(d, s); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s lies in the repository %s, where others can change it; name a directory outside for the operator's state", state, dir)
	}
	return nil
}

func (r *Repo) memoryPath() string { return filepath.Join(r.operator.State, memoryFile) }

func (r *Repo) readMemory() error {
	f, err := os.Open(r.memoryPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the operator's state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMemory+1))
	if err == nil && len(data) > maxMemory {
		err = fmt.Errorf("it is larger than %d bytes", maxMemory)
	}
	if err == nil {
		err = strict.CheckVersion(data, memoryVersion)
	}
	if errors.Is(err, strict.ErrNewer) {
		return fmt.Errorf("read the operator's state %s: %w", r.memoryPath(), err)
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		err = dec.Decode(&r.memory)
	}
	if err == nil && len(r.memory.Root) == 0 && r.memory.Seen.RootVersion != 0 {
		err = errors.New("it has versions and no root")
	}
	if err != nil {
		return fmt.Errorf("read the operator's state %s: %w; put a copy back, or remove it and begin anew with \"sealboot tuf trust\"", r.memoryPath(), err)
	}
	return nil
}

// remember replaces the state with m, unless it is that already.
func (r *Repo) remember(m memory) error {
	old, err := json.Marshal(r.memory)
	if err != nil {
		return fmt.Errorf("encode the operator's state: %w", err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the operator's state: %w", err)
	}
	if bytes.Equal(old, data) {
		return nil
	}
	r.step()
	if err := atomicfile.Write(r.memoryPath(), data, 0o600); err != nil {
		return fmt.Errorf("write the operator's state: %w", err)
	}
	r.memory = m
	return nil
}

// rememberDraft notes a draft that is about to be saved, and keeps the one that it
// replaces: after a power cut either is in the directory.
func (r *Repo) rememberDraft(digest string) error {
	m := r.memory
	m.Drafts = slices.DeleteFunc(slices.Clone(m.Drafts), func(d string) bool { return d == digest })
	m.Drafts = append(m.Drafts, digest)
	m.Drafts = m.Drafts[max(0, len(m.Drafts)-maxDrafts):]
	return r.remember(m)
}

// Trust is what an operator knows of a repository.
type Trust struct {
	RootVersion int64             // of the root that everything is verified from
	RootSHA256  [sha256.Size]byte // by which devices know that one
	Versions    map[string]int64  // the highest that were seen, by role
}

// Trust returns what the operator knows; the error is [ErrUntrusted] if that is
// nothing.
func (r *Repo) Trust() (Trust, error) {
	if r.memory.Root == nil {
		return Trust{}, r.untrusted()
	}
	version, digest, err := tuf.RootDigest(r.memory.Root)
	if err != nil {
		return Trust{}, fmt.Errorf("the root in %s: %w", r.memoryPath(), err)
	}
	versions := maps.Clone(r.memory.Versions)
	if versions == nil {
		versions = map[string]int64{}
	}
	s := r.memory.Seen
	versions[tuf.RoleRoot], versions[tuf.RoleTimestamp] = s.RootVersion, s.Timestamp.Version
	versions[tuf.RoleSnapshot], versions[tuf.RoleTargets] = s.Snapshot.Version, s.Targets.Version
	return Trust{RootVersion: version, RootSHA256: digest, Versions: versions}, nil
}

func (r *Repo) untrusted() error {
	return fmt.Errorf("%w %s in %s; say from which root to verify it: \"sealboot tuf trust %s --root FILE\", with a root that did not come with the repository, or --root-digest",
		ErrUntrusted, r.dir, r.operator.State, r.dir)
}

// Begin makes the state of an operator who had none, from a root that he trusts,
// and takes what is published for seen once all of it verifies from there.
func (r *Repo) Begin(ctx context.Context, root []byte) error {
	if r.memory.Root != nil {
		return fmt.Errorf("%w: %s has one; remove that file to forget it and all versions that were seen", ErrTrusted, r.memoryPath())
	}
	m := memory{Root: root}
	p, err := follow(ctx, r.dir, &m)
	if err != nil {
		return err
	}
	if err := m.note(ctx, p); err != nil {
		return err
	}
	return r.remember(m)
}

// FindRoot returns the root in the directory of a repository that has this digest,
// which is the one that devices measure.
func FindRoot(ctx context.Context, dir string, digest [sha256.Size]byte) ([]byte, error) {
	directory, err := bundle.OpenDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	for version := 1; ; version++ {
		data, err := directory.Metadata(ctx, fmt.Sprintf("%d.root.json", version), maxMetadata)
		if errors.Is(err, tuf.ErrNotFound) {
			return nil, fmt.Errorf("none of the %d roots in %s has the digest sha256:%x: %w", version-1, dir, digest, ErrUntrusted)
		}
		if err != nil {
			return nil, err
		}
		if _, sum, err := tuf.RootDigest(data); err == nil && sum == digest {
			return data, nil
		}
	}
}
