package repo

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
	"github.com/sealboot/sealboot/boot/tuf/store"
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
func Verify(ctx context.Context, dir string, trustedRoot []byte, now time.Time) (Report, error) {
	folder, err := bundle.OpenFolder(dir)
	if err != nil {
		return Report{}, err
	}
	defer folder.Close()
	folder.Create = func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }
	client, err := tuf.New(tuf.Config{
		TrustedRoot: trustedRoot, Store: &store.Memory{}, Now: now,
		Repositories: []tuf.Repository{folder}, Targets: folder,
	})
	if err != nil {
		return Report{}, err
	}
	published, state, err := settled(ctx, client, dir)
	if err != nil {
		return Report{}, err
	}
	report := Report{Root: state.RootSHA256, Roles: map[string]Role{}}
	for name, md := range published {
		f := fieldsOf(md)
		r := Role{Version: *f.version, Expires: *f.expires}
		if t, ok := md.(*targetsMD); ok {
			r.Targets = len(t.Signed.Targets)
			if err := readTargets(ctx, client, t); err != nil {
				return Report{}, err
			}
		}
		report.Roles[name] = r
	}
	return report, nil
}

// settled reads what is published and follows it, again if somebody published in
// between.
func settled(ctx context.Context, client *tuf.Client, dir string) (published map[string]any, state tuf.State, err error) {
	const attempts = 10
	for range attempts {
		published, err = readPublished(filepath.Join(dir, bundle.MetadataDir))
		if err == nil {
			err = client.Refresh(ctx)
		}
		if err == nil {
			state, err = client.State()
		}
		if err != nil {
			continue // or it was read while it was exchanged
		}
		version := func(role string) int64 { return *fieldsOf(published[role]).version }
		if version(tuf.RoleTimestamp) == state.Timestamp.Version && version(tuf.RoleSnapshot) == state.Snapshot.Version &&
			version(tuf.RoleTargets) == state.Targets.Version {
			return published, state, nil
		}
		err = fmt.Errorf("%s is being changed all the time", dir)
	}
	return nil, tuf.State{}, err
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

// Export copies what is published to the folder dst, for any web server or
// bucket. What was in dst/metadata is replaced in one step, after the targets
// are there; targets that are not published any more stay for clients that are
// on their way.
func (r *Repo) Export(ctx context.Context, dst string) error {
	published, err := readPublished(r.path(bundle.MetadataDir))
	if err != nil {
		return err
	}
	out := &Repo{dir: dst, step: r.step}
	for _, file := range targetFiles(published) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := out.importTarget(r.path(bundle.TargetsDir, filepath.FromSlash(file)), file); err != nil {
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
func (r *Repo) importTarget(src, file string) error {
	have, err := os.Stat(r.path(bundle.TargetsDir, filepath.FromSlash(file)))
	if want, err2 := os.Stat(src); err == nil && err2 == nil && have.Size() == want.Size() && have.ModTime().After(want.ModTime()) {
		return nil
	}
	_, err = r.copyTarget(file, src, false)
	return err
}

// targetFiles are the paths below targets/ that the roles refer to.
func targetFiles(roles map[string]any) []string {
	consistent := roles[tuf.RoleRoot].(*rootMD).Signed.ConsistentSnapshot
	files := map[string]bool{}
	for _, md := range roles {
		if t, ok := md.(*targetsMD); ok {
			for name, f := range t.Signed.Targets {
				files[targetFile(name, f, consistent)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(files))
}
