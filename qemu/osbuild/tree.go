package osbuild

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// lines returns the words of an embedded list.
func lines(name string) ([]string, error) {
	b, err := files.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("osbuild: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// extract writes an embedded file.
func extract(name, to string, mode os.FileMode) error {
	b, err := files.ReadFile(name)
	if err != nil {
		return fmt.Errorf("osbuild: %w", err)
	}
	if err := os.WriteFile(to, b, mode); err != nil {
		return fmt.Errorf("osbuild: %w", err)
	}
	return nil
}

// copyTree copies the regular files of a tree into dir.
func copyTree(dir string, tree fs.FS) error {
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, mode(name, info.Mode()))
	})
	if err != nil {
		return fmt.Errorf("osbuild: copying the overlay: %w", err)
	}
	return nil
}

// mode makes executable what was, and what is in a directory of programs: an
// embedded tree has no permissions. Nothing else of them matters, so that an
// image does not depend on the umask of a checkout.
func mode(name string, had os.FileMode) os.FileMode {
	if had&0o111 != 0 || strings.HasPrefix(name, "usr/bin/") || strings.HasPrefix(name, "usr/lib/sealboot/") {
		return 0o755
	}
	return 0o644
}
