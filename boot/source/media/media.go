// Package media opens operating system images on local media: an OCI image
// layout, as a directory or as a tar file, in a directory that is mounted.
//
// It is a [oci.Place] like a registry, so an image on a stick goes through the
// same resolving, signatures, digests and limits, and is measured the same.
// The directory is hostile: links do not lead out of it, only regular files
// are opened, names are made from digests, sizes are checked before reading, and
// one budget goes through the whole search for an image (package survey).
package media

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/regular"
	"github.com/sealboot/sealboot/boot/base/survey"
)

const (
	maxCandidates = 1 << 12 // directories and tar files of a medium that are tried
	maxLayouts    = 8       // with the image; each keeps its index
	maxTold       = 16      // broken layouts
	maxMarker     = 4096    // size of the file "oci-layout", in bytes
)

// ErrLayout is a layout that breaks the specification or a limit.
var ErrLayout = errors.New("unusable OCI layout")

// files opens the files of a layout by name.
type files interface {
	// open returns the file and its size; the error for a file that is not
	// there is fs.ErrNotExist.
	open(name string) (*section, error)
	// blobs calls visit with the name and the size of every blob.
	blobs(ctx context.Context, b *survey.Budget, visit func(hex string, size int64)) error
	io.Closer
}

// section is an open file of a layout, or its part of a tar file.
type section struct {
	*io.SectionReader
	io.Closer
}

// directory is a layout that is a directory.
type directory struct{ root *os.Root }

func (f directory) open(name string) (*section, error) {
	file, size, err := openRegular(f.root, name)
	if err != nil {
		return nil, err
	}
	return &section{io.NewSectionReader(file, 0, size), file}, nil
}

func (f directory) blobs(ctx context.Context, b *survey.Budget, visit func(string, int64)) error {
	dir, err := f.root.OpenRoot(blobDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return b.Directory(ctx, dir, func(e fs.DirEntry) error {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() {
			visit(e.Name(), info.Size())
		}
		return nil // what is gone, or cannot be looked at, is no blob
	})
}

func (f directory) Close() error { return f.root.Close() }

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
func openArchive(ctx context.Context, b *survey.Budget, file *os.File, size int64) (*archive, error) {
	a := &archive{file: file, parts: make(map[string]part)}
	strangers := 0
	err := b.Tar(ctx, file, size, func(h *tar.Header, offset int64) error {
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !wanted(name) {
			if strangers++; strangers > survey.MaxStrangers {
				return fmt.Errorf("more than %d entries are of no layout", survey.MaxStrangers)
			}
			return nil
		}
		if _, ok := a.parts[name]; ok {
			return fmt.Errorf("%s is there twice", name)
		}
		a.parts[name] = part{offset, h.Size}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	return a, nil
}

// wanted keeps the index of a tar file small.
func wanted(name string) bool {
	if hex, ok := strings.CutPrefix(name, blobDir); ok {
		return digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() == nil
	}
	return name == ocispec.ImageLayoutFile || name == ocispec.ImageIndexFile
}

func (a *archive) open(name string) (*section, error) {
	p, ok := a.parts[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return &section{io.NewSectionReader(a.file, p.offset, p.size), io.NopCloser(nil)}, nil
}

func (a *archive) blobs(_ context.Context, _ *survey.Budget, visit func(string, int64)) error {
	for name, p := range a.parts { // its names were paid for when it was opened
		if hex, ok := strings.CutPrefix(name, blobDir); ok {
			visit(hex, p.size)
		}
	}
	return nil
}

func (a *archive) Close() error { return a.file.Close() }

// Open returns every layout in dir that has the reference: dir itself, its
// directories, and its files named *.tar, in the order of their names, without
// hidden ones. An empty
// reference means the only image of a layout. What is no layout is passed over;
// the error is fs.ErrNotExist if there is no layout at all. After 8 layouts that
// have it, or when it has used up a [survey.Budget], Open looks no further.
func Open(ctx context.Context, dir string, reference string) ([]*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening media: %w", err)
	}
	defer root.Close()
	budget := survey.NewBudget()
	names, err := candidates(ctx, budget, root)
	if err != nil {
		return nil, fmt.Errorf("listing media: %w", err)
	}
	var layouts []*Layout
	var errs []error
	for _, name := range names {
		l, err := openLayout(ctx, budget, root, name, reference)
		if err == nil {
			layouts = append(layouts, l)
		} else if !errors.Is(err, fs.ErrNotExist) && len(errs) < maxTold {
			errs = append(errs, fmt.Errorf("%s: %w", path.Join(dir, name), err))
		}
		if len(layouts) == maxLayouts || errors.Is(err, survey.ErrTooMuch) || ctx.Err() != nil {
			break
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
func OpenTar(ctx context.Context, file *os.File, reference string) (*Layout, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	budget := survey.NewBudget()
	store, err := openArchive(ctx, budget, file, st.Size())
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l := newLayout(file.Name(), store, budget)
	if err := l.load(ctx, reference); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

// candidates are the names in root that can be a layout.
func candidates(ctx context.Context, b *survey.Budget, root *os.Root) ([]string, error) {
	names := []string{"."}
	err := b.Directory(ctx, root, func(e fs.DirEntry) error {
		if strings.HasPrefix(e.Name(), ".") {
			return nil // wastebaskets, and what is being written
		}
		if !e.IsDir() && !(e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".tar")) {
			return nil
		}
		if len(names) > maxCandidates {
			return fmt.Errorf("%w: more than %d directories and tar files", survey.ErrTooMuch, maxCandidates)
		}
		names = append(names, e.Name())
		return nil
	})
	slices.Sort(names[1:])
	return names, err
}

// openLayout opens one layout. The error for what is none is fs.ErrNotExist.
func openLayout(ctx context.Context, b *survey.Budget, root *os.Root, name, reference string) (*Layout, error) {
	store, err := openFiles(ctx, b, root, name)
	if err != nil {
		return nil, err
	}
	l := newLayout(path.Join(root.Name(), name), store, b)
	if err := l.load(ctx, reference); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

func openFiles(ctx context.Context, b *survey.Budget, root *os.Root, name string) (files, error) {
	if !strings.HasSuffix(name, ".tar") {
		sub, err := root.OpenRoot(name)
		if err != nil {
			return nil, err
		}
		return directory{sub}, nil
	}
	file, size, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	a, err := openArchive(ctx, b, file, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return a, nil
}
