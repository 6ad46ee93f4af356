package repo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
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
	folder, err := bundle.OpenFolder(dir)
	if err != nil {
		return Report{}, err
	}
	defer folder.Close()
	f, err := newFollower(folder, m.Root, m, now)
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

// Export copies what is published, once it verifies, to the folder dst, for any web
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
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := out.importTarget(r.path(bundle.TargetsDir, filepath.FromSlash(file)), file, files[file]); err != nil {
			return fmt.Errorf("export target %s: %w", file, err)
		}
	}
	err = out.replaceDir(bundle.MetadataDir, func(staged string) error {
		return copyAll(r.path(bundle.MetadataDir), staged)
	})
	if err != nil {
		return fmt.Errorf("export to %s: %w", dst, err)
	}
	return nil
}

// importTarget copies a target file that has its final name already.
func (r *Repo) importTarget(src, file string, want tuf.Want) error {
	have, err := os.Stat(r.path(bundle.TargetsDir, filepath.FromSlash(file)))
	if original, err2 := os.Stat(src); err == nil && err2 == nil && have.Size() == original.Size() && have.ModTime().After(original.ModTime()) {
		return nil
	}
	if err := checkFile(src, want); err != nil {
		return err
	}
	_, err = r.copyTarget(file, src, false)
	return err
}

// checkFile compares a target file with what is signed of it.
func checkFile(file string, want tuf.Want) error {
	f, _, err := openPlain(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return want.Check(f)
}

// openPlain opens a file that is in the repository. A pipe in its place would wait
// for ever.
func openPlain(file string) (*os.File, fs.FileInfo, error) {
	st, err := os.Stat(file)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a plain file", file)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(file)
	return f, st, err
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
