// Package atomicfile replaces files in one step.
//
// Anyone who opens the file finds the old content or the new, whole, and so does
// the next start after a power cut: the bytes are on the disk before they get
// the name, and the name is on the disk before success is reported. A failure
// leaves the old file as it was and nothing next to it.
//
// It needs nothing of this module. It is below measure because both boot and
// attest use it, and they import nothing of each other.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write gives the file at path the content data and the permissions perm,
// whatever the umask. The file need not exist, its directory must.
func Write(path string, data []byte, perm fs.FileMode) error {
	return Fill(path, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// Fill is [Write] for content that is not in memory: fill writes it, in any
// order, to a file that is not open to others yet.
func Fill(path string, perm fs.FileMode, fill func(*os.File) error) error {
	if err := replace(path, perm, fill, (*os.File).Sync); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// SyncDir makes durable which names are in a directory: those of files just
// created, renamed or removed.
func SyncDir(dir string) error { return syncDir(dir, (*os.File).Sync) }

func replace(path string, perm fs.FileMode, fill, sync func(*os.File) error) error {
	// The name begins with a dot, so that who lists the directory can pass over
	// what a crash left.
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path), sync)
}

func syncDir(dir string, sync func(*os.File) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(sync(f), f.Close())
}
