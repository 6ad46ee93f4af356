package tufrepo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/base/regular"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
)

// Report is what [Verify] found.
type Report struct {
	// Root is the SHA-256 that devices measure and keep of the newest root: of
	// the canonical JSON that its keys signed.
	Root  [sha256.Size]byte
	Roles map[string]Role
}

// Role is what [Verify] reports of a role.
type Role struct {
	Version int64
	Expires time.Time
	Targets int // how many it lists
}

// Verify follows the repository in dir as a device would, starting from a root
// it trusts, and reads every target. It needs no lock.
func Verify(ctx context.Context, dir string, trustedRoot []byte, now time.Time) (report Report, err error) {
	const attempts = 10
	for range attempts { // it may be read while it is exchanged
		if report, err = verify(ctx, dir, &memory{Root: trustedRoot}, now); err == nil || ctx.Err() != nil {
			break
		}
	}
	return report, err
}

// Verify follows the repository as a device would, from the root and above the
// versions that the operator remembers, and reads every target.
func (r *Repo) Verify(ctx context.Context, now time.Time) (Report, error) {
	if r.memory.Root == nil {
		return Report{}, r.untrusted()
	}
	return verify(ctx, r.dir, &r.memory, now)
}

func verify(ctx context.Context, dir string, m *memory, now time.Time) (Report, error) {
	directory, err := bundle.OpenDirectory(dir)
	if err != nil {
		return Report{}, err
	}
	defer directory.Close()
	f, err := newFollower(directory, m.Root, m, now)
	if err != nil {
		return Report{}, err
	}
	p, err := f.follow(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := m.checkDelegated(p.versions); err != nil {
		return Report{}, err
	}
	report := Report{Root: p.state.RootSHA256, Roles: map[string]Role{}}
	for name, md := range p.roles {
		fields := fieldsOf(md)
		role := Role{Version: *fields.version, Expires: *fields.expires}
		if t, ok := md.(*targetsMD); ok {
			role.Targets = len(t.Signed.Targets)
			if err := readTargets(ctx, f.client, t); err != nil {
				return Report{}, err
			}
		}
		report.Roles[name] = role
	}
	return report, nil
}

func readTargets(ctx context.Context, client *tuf.Client, t *targetsMD) error {
	for _, name := range slices.Sorted(maps.Keys(t.Signed.Targets)) {
		target, err := client.Find(ctx, name)
		if err != nil {
			return err
		}
		f, err := client.Download(ctx, target)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Export copies what is published, once it verifies, to the directory dst, for any web
// server or bucket. What was in dst/metadata is replaced in one step, after the
// targets are there; targets that are not published any more stay for clients that
// are on their way.
func (r *Repo) Export(ctx context.Context, dst string) error {
	p, err := r.load(ctx)
	if err != nil {
		return err
	}
	files, err := p.targetFiles()
	if err != nil {
		return err
	}
	out := &Repo{dir: dst, step: r.step}
	if err := os.RemoveAll(out.path(stagingDir)); err != nil { // a link, perhaps
		return err
	}
	there := func() (map[string]any, error) { return nil, nil } // no name that was given is given again
	if !p.roles[tuf.RoleRoot].(*rootMD).Signed.ConsistentSnapshot {
		there = sync.OnceValues(out.readPublished)
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := r.exportTarget(out, there, file, files[file]); err != nil {
			return fmt.Errorf("export target %s: %w", file, err)
		}
	}
	err = out.replaceDir(bundle.MetadataDir, func(staged *os.Root) error {
		dir, err := r.below(bundle.MetadataDir)
		if err != nil {
			return err
		}
		defer dir.Close()
		return copyAll(dir, staged)
	})
	if err != nil {
		return fmt.Errorf("export to %s: %w", dst, err)
	}
	return nil
}

// exportTarget copies a target file, which has its final name already, to out, whose
// clients may be told of another one by what is there.
func (r *Repo) exportTarget(out *Repo, there func() (map[string]any, error), file string, want tuf.Want) error {
	src, err := r.openPlain(bundle.TargetsDir, file)
	if err != nil {
		return err
	}
	defer src.Close()
	if out.checkTarget(file, want) == nil {
		return nil
	}
	published, err := there()
	if err != nil {
		return fmt.Errorf("see whether clients of %s are told of another file of that name: %w; remove what is broken there", out.dir, err)
	}
	_, err = out.copyTarget(file, want.Reader(src), false, published)
	return err
}

// checkTarget compares a target file with what is signed of it.
func (r *Repo) checkTarget(file string, want tuf.Want) error {
	f, err := r.openPlain(bundle.TargetsDir, file)
	if err != nil {
		return err
	}
	defer f.Close()
	return want.Check(f)
}

// openPlain opens a file below one of the repository's directories, whose owner may have
// put anything there: a pipe would wait for ever, and a link could have a file of the
// operator's, a key even, read and published.
func (r *Repo) openPlain(dir, name string) (*os.File, error) {
	root, err := r.below(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := regular.Open(root, filepath.FromSlash(name), os.O_RDONLY, 0)
	if errors.Is(err, regular.Err) {
		err = fmt.Errorf("%s is not a plain file: %w", r.path(dir, name), err)
	}
	return f, err
}

// targetFiles are the paths below targets/ that the roles refer to, and what is to
// be there.
func (p *published) targetFiles() (map[string]tuf.Want, error) {
	root, ok := p.roles[tuf.RoleRoot].(*rootMD)
	if !ok {
		return nil, fmt.Errorf("%w: nothing is published yet", ErrChange)
	}
	files := map[string]tuf.Want{}
	for _, md := range p.roles {
		if t, ok := md.(*targetsMD); ok {
			for name, f := range t.Signed.Targets {
				files[targetFile(name, f, root.Signed.ConsistentSnapshot)] = wantOf(f)
			}
		}
	}
	return files, nil
}

func wantOf(f *metadata.TargetFiles) tuf.Want {
	return tuf.Want{Size: f.Length, SHA256: f.Hashes["sha256"], SHA512: f.Hashes["sha512"]}
}
