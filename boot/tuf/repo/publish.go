package repo

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
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/bundle"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// publish makes the edited roles what clients see.
func (r *Repo) publish(e *Edit) error {
	err := r.replaceDir(bundle.MetadataDir, func(staged string) error {
		if err := linkAll(r.path(bundle.MetadataDir), staged); err != nil {
			return err
		}
		for name := range e.changed {
			r.step()
			if err := e.write(staged, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// saveDraft keeps roles that lack signatures.
func (r *Repo) saveDraft(e *Edit) error {
	err := r.replaceDir(draftDir, func(staged string) error {
		for name := range e.changed {
			data, err := encode(e.roles[name])
			if err != nil {
				return err
			}
			r.step()
			if err := writeFile(filepath.Join(staged, tuf.Escape(name)+".json"), data); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("save the draft: %w", err)
	}
	return nil
}

// write puts a role under the name that clients ask for.
func (e *Edit) write(dir, name string) error {
	data, err := encode(e.roles[name])
	if err != nil {
		return err
	}
	file := tuf.Escape(name) + ".json"
	if name == tuf.RoleRoot || name != tuf.RoleTimestamp && e.root().Signed.ConsistentSnapshot {
		file = strconv.FormatInt(*fieldsOf(e.roles[name]).version, 10) + "." + file
	}
	file = filepath.Join(dir, file)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // the old one may be linked here
	}
	return writeFile(file, data)
}

// replaceDir fills a new folder and exchanges it with the one called name, in
// one step and only after all of it is on the disk.
func (r *Repo) replaceDir(name string, fill func(staged string) error) error {
	staged := r.path(stagingDir, name)
	if err := os.RemoveAll(r.path(stagingDir)); err != nil {
		return err
	}
	if err := os.MkdirAll(staged, 0o755); err != nil {
		return err
	}
	r.step()
	if err := fill(staged); err != nil {
		return err
	}
	r.step()
	if err := atomicfile.SyncDir(staged); err != nil {
		return err
	}
	if err := exchange(staged, r.path(name)); err != nil {
		return err
	}
	r.step()
	if err := errors.Join(atomicfile.SyncDir(r.dir), atomicfile.SyncDir(r.path(stagingDir))); err != nil {
		return err
	}
	return os.RemoveAll(r.path(stagingDir))
}

// exchange puts the folder staged in the place of dir, which may not exist.
func exchange(staged, dir string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); !errors.Is(err, unix.EEXIST) {
		return named(dir, err)
	}
	return named(dir, unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE))
}

func named(dir string, err error) error {
	if err != nil {
		return fmt.Errorf("exchange %s (the file system must know renameat2): %w", dir, err)
	}
	return nil
}

// linkAll gives dst the files of src, which are never written again.
func linkAll(src, dst string) error {
	entries, err := os.ReadDir(src)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		if err := os.Link(filepath.Join(src, entry.Name()), filepath.Join(dst, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// copyTarget copies a file to where clients will look for it, and returns what
// to sign. With consistent snapshots the digest is in the name, so nothing that
// is published is touched; in the plain layout the file is replaced.
func (r *Repo) copyTarget(name, file string, consistent bool) (*metadata.TargetFiles, error) {
	src, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer src.Close()
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
	sum, prefix := digest.Sum(nil), ""
	if consistent {
		prefix = hex.EncodeToString(sum) + "."
	}
	if err := r.placeTarget(dst.Name(), name, prefix); err != nil {
		return nil, err
	}
	return &metadata.TargetFiles{Length: n, Path: name, Hashes: metadata.Hashes{"sha256": sum}}, nil
}

func (r *Repo) placeTarget(staged, name, prefix string) error {
	dir, file := path.Split(name)
	dst := r.path(bundle.TargetsDir, filepath.FromSlash(dir), prefix+file)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	r.step()
	if err := os.Rename(staged, dst); err != nil {
		return err
	}
	r.step()
	for d := filepath.Dir(dst); strings.HasPrefix(d, r.dir); d = filepath.Dir(d) {
		if err := atomicfile.SyncDir(d); err != nil {
			return err
		}
		if d == r.dir {
			break
		}
	}
	return nil
}
