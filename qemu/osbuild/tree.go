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

// copyTree copies the regular files of a tree into dir. Permissions follow from
// the place, because a version control system or an embedded tree may have lost
// them: what is meant to be executed may be.
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
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, mode(name))
	})
	if err != nil {
		return fmt.Errorf("osbuild: copying the overlay: %w", err)
	}
	return nil
}

// programs are the folders of what is executed.
var programs = []string{"usr/bin/", "usr/sbin/", "usr/lib/sealboot/", "usr/lib/dracut/", "etc/initramfs-tools/", "usr/share/initramfs-tools/"}

func mode(name string) os.FileMode {
	for _, p := range programs {
		if strings.HasPrefix(name, p) {
			return 0o755
		}
	}
	return 0o644
}
