package tufrepo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/bundle"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// publish makes the edited roles what clients see, after they were followed from
// the operator's root in the directory where they wait.
func (r *Repo) publish(ctx context.Context, e *Edit) error {
	m := r.memory
	if e.published.roles == nil { // the first publication: its root is the operator's own
		root, err := e.encode(tuf.RoleRoot)
		if err != nil {
			return err
		}
		m.Root = root
		if err := r.remember(m); err != nil { // versions are still unseen, in case this ends here
			return err
		}
	}
	err := r.replaceDir(bundle.MetadataDir, func(staged *os.Root) error {
		if err := r.linkAll(bundle.MetadataDir, stagingDir+"/"+bundle.MetadataDir); err != nil {
			return err
		}
		for name := range e.changed {
			r.step()
			if err := e.write(staged, name); err != nil {
				return err
			}
		}
		if err := e.nameVersions(staged); err != nil {
			return err
		}
		p, err := follow(ctx, r.path(stagingDir), &m)
		if err != nil {
			return err
		}
		return m.note(ctx, p)
	})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return r.remember(m)
}

// saveDraft keeps roles that lack signatures.
func (r *Repo) saveDraft(e *Edit) error {
	files := map[string][]byte{}
	for name := range e.changed {
		data, err := e.encode(name)
		if err != nil {
			return err
		}
		files[name] = data
	}
	if err := r.rememberDraft(draftDigest(files)); err != nil {
		return err
	}
	err := r.replaceDir(draftDir, func(staged *os.Root) error {
		for name, data := range files {
			r.step()
			if err := writeFile(staged, tuf.Escape(name)+".json", data); err != nil {
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
func (e *Edit) write(dir *os.Root, name string) error {
	data, err := e.encode(name)
	if err != nil {
		return err
	}
	file := e.fileName(name)
	if err := dir.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // the old one may be linked here
	}
	return writeFile(dir, file, data)
}

// fileName is the name that clients ask for a role by.
func (e *Edit) fileName(name string) string {
	file := tuf.Escape(name) + ".json"
	if name == tuf.RoleRoot || name != tuf.RoleTimestamp && e.root().Signed.ConsistentSnapshot {
		file = strconv.FormatInt(*fieldsOf(e.roles[name]).version, 10) + "." + file
	}
	return file
}

// nameVersions gives roles that have only a plain name so far, because the
// layout has just changed, the name with their version too.
func (e *Edit) nameVersions(dir *os.Root) error {
	for name := range e.roles {
		err := dir.Link(tuf.Escape(name)+".json", e.fileName(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// replaceDir fills a new directory and exchanges it with the one called name, in
// one step and only after all of it is on the disk.
func (r *Repo) replaceDir(name string, fill func(staged *os.Root) error) error {
	staged := r.path(stagingDir, name)
	if err := os.RemoveAll(r.path(stagingDir)); err != nil {
		return err
	}
	dir, err := r.makeBelow(stagingDir + "/" + name)
	if err != nil {
		return err
	}
	defer dir.Close()
	r.step()
	if err := fill(dir); err != nil {
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

// exchange puts the directory staged in the place of dir, which may not exist.
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

// linkAll gives the directory dst the files of src, which are never written again. Both are
// in the repository.
func (r *Repo) linkAll(src, dst string) error {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	from, err := root.OpenRoot(src)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	return eachFile(from, func(name string) error {
		return root.Link(src+"/"+name, dst+"/"+name)
	})
}

// copyAll gives dst copies of the files of src, on the disk.
func copyAll(src, dst *os.Root) error {
	return eachFile(src, func(name string) error {
		data, err := readFile(src, name)
		if err != nil {
			return err
		}
		return writeFile(dst, name, data)
	})
}

func eachFile(dir *os.Root, f func(name string) error) error {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		if err := f(entry.Name()); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(dir *os.Root, name string, data []byte) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// below opens a directory of the repository. No link leads out of there, also none that its
// owner puts in the directory's place later: an operator takes minutes to say yes, and
// copying an image does.
func (r *Repo) below(name string) (*os.Root, error) {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenRoot(name)
}

// makeBelow is below for a directory that may not exist yet.
func (r *Repo) makeBelow(name string) (*os.Root, error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll(name, 0o755); err != nil {
		return nil, err
	}
	return root.OpenRoot(name)
}
