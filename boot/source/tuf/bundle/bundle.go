// Package bundle reads a TUF repository from a directory or a tar: on a USB stick
// for a device without a network, or on the publisher's own disk.
//
// An offline bundle is a repository, complete or not, with a seal: the file
// bundle.json, signed by the targets role, with an expiry of its own. Nothing
// in it is trusted until [tuf.Client] has verified it, as if it came from a
// server.
//
// The layout is that of a repository on a web server:
//
//	bundle.json
//	metadata/1.root.json, metadata/timestamp.json, ...
//	targets/...
package bundle

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/regular"
	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

// Names in a bundle.
const (
	SealFile    = "bundle.json"
	MetadataDir = "metadata"
	TargetsDir  = "targets"
)

const copyBuffer = 256 << 10 // bytes

// ErrFormat is a tar that is not a bundle.
var ErrFormat = errors.New("not a bundle")

// Directory is a [tuf.Repository] and [tuf.Targets] in files.
type Directory struct {
	name  string
	open  func(name string) (io.ReadCloser, error)
	close func() error
	// Create returns an empty file for a target; nil means one in memory.
	Create func() (*os.File, error)
}

var (
	_ tuf.Repository = (*Directory)(nil)
	_ tuf.Targets    = (*Directory)(nil)
	_ tuf.Sealed     = (*Bundle)(nil)
)

// OpenDirectory returns the repository in the directory dir.
func OpenDirectory(dir string) (*Directory, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	open := func(name string) (io.ReadCloser, error) {
		if !fs.ValidPath(name) {
			return nil, fmt.Errorf("%q is not a file name: %w", name, fs.ErrNotExist)
		}
		return regular.Open(root, name, os.O_RDONLY, 0)
	}
	return &Directory{name: dir, open: open, close: root.Close}, nil
}

// Bundle is a [Directory] with a seal.
type Bundle struct{ *Directory }

// Open returns the bundle at path, which is a directory or a tar. What is looked
// through comes out of the budget; nil stands for one of its own.
func Open(ctx context.Context, path string, budget *survey.Budget) (*Bundle, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open the bundle: %w", err)
	}
	if st.IsDir() {
		f, err := OpenDirectory(path)
		if err != nil {
			return nil, err
		}
		return &Bundle{f}, nil
	}
	file, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open the bundle: %w", err)
	}
	if budget == nil {
		budget = survey.NewBudget()
	}
	f, err := indexTar(ctx, budget, path, file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the bundle %s: %w", path, err), file.Close())
	}
	return &Bundle{f}, nil
}

// openFile opens a regular file without waiting for it.
func openFile(name string) (*os.File, error) {
	name, err := filepath.EvalSymlinks(name) // a publisher's may lead to another directory
	if err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return regular.Open(dir, filepath.Base(name), os.O_RDONLY, 0)
}

type extent struct{ offset, size int64 }

// indexTar notes where the files of a tar are. Their contents stay there.
func indexTar(ctx context.Context, budget *survey.Budget, name string, file *os.File) (*Directory, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	files := map[string]extent{}
	strangers := 0
	err = budget.Tar(ctx, file, st.Size(), func(h *tar.Header, offset int64) error {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		n := strings.TrimPrefix(h.Name, "./")
		if _, twice := files[n]; twice || h.Typeflag != tar.TypeReg || sparse(h) {
			return fmt.Errorf("entry %.80q is repeated or not a plain file", n)
		}
		if !belongs(n) {
			if strangers++; strangers > survey.MaxStrangers {
				return fmt.Errorf("more than %d entries are of no bundle", survey.MaxStrangers)
			}
		}
		files[n] = extent{offset, h.Size}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	open := func(name string) (io.ReadCloser, error) {
		e, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return io.NopCloser(io.NewSectionReader(file, e.offset, e.size)), nil
	}
	return &Directory{name: name, open: open, close: file.Close}, nil
}

// belongs says whether an entry of that name is part of a bundle.
func belongs(name string) bool {
	return name == SealFile || strings.HasPrefix(name, MetadataDir+"/") || strings.HasPrefix(name, TargetsDir+"/")
}

// sparse says whether the bytes in the tar are not those of the file.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse") {
			return true
		}
	}
	return false
}

// String implements [tuf.Repository].
func (f *Directory) String() string { return f.name }

// Close releases the directory or the tar.
func (f *Directory) Close() error { return f.close() }

// Metadata implements [tuf.Repository].
func (f *Directory) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	return f.read(ctx, path.Join(MetadataDir, name), max)
}

// Seal implements [tuf.Sealed].
func (b *Bundle) Seal(ctx context.Context, max int64) ([]byte, error) {
	return b.read(ctx, SealFile, max)
}

func (f *Directory) read(ctx context.Context, name string, max int64) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r, err := f.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", tuf.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, tuf.ErrTooLarge, max)
	}
	return data, nil
}

// Target implements [tuf.Targets].
func (f *Directory) Target(ctx context.Context, path string, want tuf.Want) (*os.File, error) {
	r, err := f.open(TargetsDir + "/" + path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", tuf.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	create := f.Create
	if create == nil {
		create = memoryFile
	}
	dst, err := create()
	if err != nil {
		return nil, err
	}
	if err = fill(ctx, dst, r, want); err == nil {
		_, err = dst.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, dst.Close())
	}
	return dst, nil
}

// fill copies r, which may be a slow and broken medium, until ctx ends.
func fill(ctx context.Context, dst io.Writer, r io.Reader, want tuf.Want) error {
	v := want.Verifier()
	w := io.MultiWriter(v, dst)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		_, err := io.CopyN(w, r, copyBuffer)
		if err == io.EOF {
			return v.Verify()
		}
		if err != nil {
			return err
		}
	}
}

func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("target", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "target"), nil
}
