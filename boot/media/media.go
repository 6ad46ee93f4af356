// Package media opens operating system images on local media: an OCI image
// layout, as a folder or as a tar file, in a directory that is mounted.
//
// It is a [oci.Place] like a registry, so an image on a stick goes through the
// same resolving, signatures, digests and limits, and is measured the same.
// The directory is hostile: links do not lead out of it, only regular files
// are opened, names are made from digests, and sizes are checked before reading.
package media

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/regular"
)

const (
	maxEntries = 1 << 16 // of a directory or a tar file
	maxMarker  = 4096    // size of the file "oci-layout", in bytes
)

// ErrLayout is a layout that breaks the specification or a limit.
var ErrLayout = errors.New("unusable OCI layout")

// files opens the files of a layout by name.
type files interface {
	// open returns the file and its size; the error for a file that is not
	// there is fs.ErrNotExist.
	open(name string) (*section, error)
	io.Closer
}

// section is an open file of a layout, or its part of a tar file.
type section struct {
	*io.SectionReader
	io.Closer
}

// folder is a layout that is a folder.
type folder struct{ root *os.Root }

func (f folder) open(name string) (*section, error) {
	file, size, err := openRegular(f.root, name)
	if err != nil {
		return nil, err
	}
	return &section{io.NewSectionReader(file, 0, size), file}, nil
}

func (f folder) Close() error { return f.root.Close() }

// openRegular opens a file and tells its size.
func openRegular(root *os.Root, name string) (*os.File, int64, error) {
	file, err := regular.Open(root, name, os.O_RDONLY, 0)
	if errors.Is(err, regular.Err) {
		return nil, 0, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if err != nil {
		return nil, 0, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, st.Size(), nil
}

// archive is a layout in a tar file.
type archive struct {
	file  *os.File
	parts map[string]part
}

type part struct{ offset, size int64 }

// openArchive reads the headers of a tar file, skipping contents.
func openArchive(file *os.File, size int64) (*archive, error) {
	a := &archive{file: file, parts: make(map[string]part)}
	r := io.NewSectionReader(file, 0, size)
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLayout, err)
		}
		if n == maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrLayout, maxEntries)
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !wanted(name) {
			continue
		}
		offset, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if _, ok := a.parts[name]; ok {
			return nil, fmt.Errorf("%w: %s is there twice", ErrLayout, name)
		}
		a.parts[name] = part{offset, h.Size}
	}
}

// wanted keeps the index of a tar file small.
func wanted(name string) bool {
	return name == ocispec.ImageLayoutFile || name == ocispec.ImageIndexFile || strings.HasPrefix(name, "blobs/sha256/")
}

func (a *archive) open(name string) (*section, error) {
	p, ok := a.parts[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return &section{io.NewSectionReader(a.file, p.offset, p.size), io.NopCloser(nil)}, nil
}

func (a *archive) Close() error { return a.file.Close() }

// Open returns every layout in dir that has the reference: dir itself, its
// folders, and its files named *.tar, in the order of their names, without
// hidden ones. An empty
// reference means the only image of a layout. What is no layout is passed over;
// the error is fs.ErrNotExist if there is no layout at all.
func Open(dir string, reference string) ([]*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening media: %w", err)
	}
	defer root.Close()
	names, err := candidates(root)
	if err != nil {
		return nil, fmt.Errorf("listing media: %w", err)
	}
	var layouts []*Layout
	var errs []error
	for _, name := range names {
		l, err := openLayout(root, name, reference)
		switch {
		case err == nil:
			layouts = append(layouts, l)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("%s: %w", path.Join(dir, name), err))
		}
	}
	if len(layouts) > 0 {
		return layouts, nil
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return nil, fmt.Errorf("no OCI layout in %s: %w", dir, fs.ErrNotExist)
}

// OpenTar returns the layout in an open tar file, such as one that was
// downloaded. It takes file over.
func OpenTar(file *os.File, reference string) (*Layout, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	store, err := openArchive(file, st.Size())
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l := &Layout{name: file.Name(), files: store}
	if err := l.load(reference); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

// candidates are the names in root that can be a layout.
func candidates(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxEntries)
	if err != nil && err != io.EOF {
		return nil, err
	}
	names := []string{"."}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // wastebaskets, and what is being written
		}
		if e.IsDir() || e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".tar") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names[1:])
	return names, nil
}

// openLayout opens one layout. The error for what is none is fs.ErrNotExist.
func openLayout(root *os.Root, name, reference string) (*Layout, error) {
	store, err := openFiles(root, name)
	if err != nil {
		return nil, err
	}
	l := &Layout{name: path.Join(root.Name(), name), files: store}
	if err := l.load(reference); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

func openFiles(root *os.Root, name string) (files, error) {
	if !strings.HasSuffix(name, ".tar") {
		sub, err := root.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return folder{sub}, nil
	}
	file, size, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	a, err := openArchive(file, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return a, nil
}
