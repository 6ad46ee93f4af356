package tufrepo

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// copyTarget copies src to where clients will look for it, and returns what
// to sign. With consistent snapshots the digest is in the name, so nothing that
// is published is touched. In the plain layout a file that clients are told of
// is never replaced: they would be told of the new one a moment later, or never. What
// they are told of is in published, by role.
func (r *Repo) copyTarget(name string, src io.Reader, consistent bool, published map[string]any) (*metadata.TargetFiles, error) {
	if err := os.MkdirAll(r.path(stagingDir), 0o755); err != nil {
		return nil, err
	}
	dst, err := os.CreateTemp(r.path(stagingDir), "target")
	if err != nil {
		return nil, err
	}
	digest := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, digest), src)
	if err == nil {
		err = dst.Chmod(0o644)
	}
	if err == nil {
		err = dst.Sync()
	}
	if err := errors.Join(err, dst.Close()); err != nil {
		return nil, err
	}
	f := &metadata.TargetFiles{Length: n, Path: name, Hashes: metadata.Hashes{"sha256": digest.Sum(nil)}}
	if !consistent {
		if err := mayReplace(published, name, f); err != nil {
			return nil, err
		}
	}
	return f, r.placeTarget(dst.Name(), targetFile(name, f, consistent))
}

// mayReplace refuses to touch what the published metadata of a plain layout
// lists, unless it stays what it is.
func mayReplace(published map[string]any, name string, f *metadata.TargetFiles) error {
	if root, ok := published[tuf.RoleRoot].(*rootMD); !ok || root.Signed.ConsistentSnapshot {
		return nil
	}
	for _, md := range published {
		if t, ok := md.(*targetsMD); ok {
			if old := t.Signed.Targets[name]; old != nil && (old.Length != f.Length || old.Hashes["sha256"].String() != f.Hashes["sha256"].String()) {
				return fmt.Errorf("%w: %q is published with another content, and without consistent snapshots it cannot be replaced in one step; "+
					"choose another name, or change the layout first (sealboot tuf consistent)", ErrChange, name)
			}
		}
	}
	return nil
}

// placeTarget gives a staged file its place below the targets.
func (r *Repo) placeTarget(staged, file string) error {
	dir, err := r.makeBelow(bundle.TargetsDir + "/" + path.Dir(file))
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r.step()
	if err := root.Rename(stagingDir+"/"+filepath.Base(staged), bundle.TargetsDir+"/"+file); err != nil {
		return err
	}
	r.step()
	return r.syncUp(filepath.Dir(r.path(bundle.TargetsDir, filepath.FromSlash(file))))
}

// syncUp makes the names in a directory durable, and that of the directory itself.
func (r *Repo) syncUp(dir string) error {
	for d := dir; strings.HasPrefix(d, r.dir); d = filepath.Dir(d) {
		if err := atomicfile.SyncDir(d); err != nil {
			return err
		}
		if d == r.dir {
			break
		}
	}
	return nil
}

// targetFile is where a target is below the targets.
func targetFile(name string, f *metadata.TargetFiles, consistent bool) string {
	if !consistent {
		return name
	}
	digest := f.Hashes["sha256"]
	if digest == nil {
		digest = f.Hashes["sha512"]
	}
	dir, file := path.Split(name)
	return dir + hex.EncodeToString(digest) + "." + file
}

// Consistent gives a repository of the plain layout consistent snapshots: names
// with a version or a digest, so that nothing that is published is ever replaced
// and a publication is one step. What has plain names keeps them too, for devices
// that have not seen the new root yet.
func Consistent() Change {
	return func(e *Edit) error {
		if e.root() == nil || e.root().Signed.ConsistentSnapshot {
			return fmt.Errorf("%w: there are consistent snapshots already, or there is no repository", ErrChange)
		}
		for _, md := range e.roles {
			t, ok := md.(*targetsMD)
			if !ok {
				continue
			}
			for name, f := range t.Signed.Targets {
				if err := e.repo.alsoByDigest(name, f); err != nil {
					return fmt.Errorf("target %s: %w", name, err)
				}
			}
		}
		root, err := e.touch(tuf.RoleRoot)
		if err != nil {
			return err
		}
		root.(*rootMD).Signed.ConsistentSnapshot = true
		return nil
	}
}

// alsoByDigest gives a target of the plain layout its other name.
func (r *Repo) alsoByDigest(name string, f *metadata.TargetFiles) error {
	if err := r.checkTarget(name, wantOf(f)); err != nil {
		return err
	}
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r.step()
	file := targetFile(name, f, true)
	if err := root.Link(bundle.TargetsDir+"/"+name, bundle.TargetsDir+"/"+file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return r.syncUp(filepath.Dir(r.path(bundle.TargetsDir, filepath.FromSlash(file))))
}
