// Package ocipush puts images into registries and layouts, signs them, attaches
// what belongs to them, and moves them from one to the other.
//
// It is the operator's side of packages oci and cosign: what it writes, they
// read. The loader does not link it.
package ocipush

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"

	"github.com/sealboot/sealboot/boot/source/cosign"
	"github.com/sealboot/sealboot/boot/source/fetch"
	sealoci "github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// Location is a place for images, in skopeo's notation:
//
//	registry/name:tag, docker://registry/name:tag, also @digest
//	oci:DIRECTORY:TAG         an OCI image layout
//	oci-archive:FILE:TAG   the same in a tar file
type Location struct {
	transport string // "docker", "oci" or "oci-archive"
	path      string // directory or file; the whole reference for docker
	reference string // tag or digest; may be empty
}

// ParseLocation reads a location.
func ParseLocation(s string) (Location, error) {
	for _, transport := range []string{"oci", "oci-archive"} {
		rest, ok := strings.CutPrefix(s, transport+":")
		if !ok {
			continue
		}
		path, reference := rest, ""
		if i := strings.LastIndex(rest, "@sha256:"); i >= 0 {
			path, reference = rest[:i], rest[i+1:]
		} else if i := strings.LastIndexByte(rest, ':'); i >= 0 {
			path, reference = rest[:i], rest[i+1:]
		}
		if path == "" {
			return Location{}, fmt.Errorf("location %q: no path", s)
		}
		return Location{transport, path, reference}, nil
	}
	return Location{transport: "docker", path: strings.TrimPrefix(s, "docker://")}, nil
}

// Repository is the name of the repository in a registry; empty for a layout,
// which has none.
func (l Location) Repository() string {
	if l.transport != "docker" {
		return ""
	}
	return cosign.Repository(l.path)
}

// Source is an open location to read from.
type Source struct {
	oras.ReadOnlyGraphTarget
	Reference string
	mirror    fetch.Mirror // of its blobs; nil if they are not behind a network
	close     func() error
}

// Close ends the use of the source.
func (s *Source) Close() error { return s.close() }

// Target is an open location to write to.
type Target struct {
	oras.GraphTarget
	Reference string // tag to give; may be empty

	partials   string // directory for what has arrived of blobs; empty if there is none
	unfinished bool   // what was pushed is lost without Finish
	tally      *tally // of what is pushed; may be nil
	finish     func() error
	cleanup    func() error
}

// Finish makes what was written complete. Without it a tar file is not written.
func (t *Target) Finish() error { return t.finish() }

// Close ends the use of the target.
func (t *Target) Close() error { return t.cleanup() }

func nothing() error { return nil }

// Source opens the location for reading.
func (l Location) Source(ctx context.Context, conn sealoci.Connection) (*Source, error) {
	switch l.transport {
	case "docker":
		r, err := sealoci.NewRemote(l.path, conn)
		if err != nil {
			return nil, err
		}
		return &Source{r.Repository(), r.Reference(), r.Mirror(), func() error { r.Close(); return nil }}, nil
	case "oci-archive":
		store, err := oci.NewFromTar(ctx, l.path)
		if err != nil {
			return nil, fmt.Errorf("opening %s: %w", l.path, err)
		}
		return &Source{store, l.reference, nil, nothing}, nil
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return nil, err
	}
	store, err := oci.NewFromFS(ctx, root.FS())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening layout %s: %w", l.path, err), root.Close())
	}
	return &Source{store, l.reference, nil, root.Close}, nil
}

// Target opens the location for writing, making a layout if there is none.
func (l Location) Target(ctx context.Context, conn sealoci.Connection) (*Target, error) {
	switch l.transport {
	case "docker":
		r, err := sealoci.NewRemote(l.path, conn)
		if err != nil {
			return nil, err
		}
		t := &Target{GraphTarget: r.Repository(), Reference: r.Reference(), finish: nothing}
		t.cleanup = func() error { r.Close(); return nil }
		if cache, err := os.UserCacheDir(); err == nil {
			t.partials = filepath.Join(cache, "sealboot", "copy")
		}
		return t, nil
	case "oci":
		return openLayout(ctx, l.path, l.reference)
	}
	return openArchive(ctx, l.path, l.reference)
}

// openLayout opens a layout directory for writing.
func openLayout(ctx context.Context, dir, reference string) (*Target, error) {
	store, err := oci.NewWithContext(ctx, dir)
	if err != nil {
		err = fmt.Errorf("opening layout %s: %w", dir, err)
		index := filepath.Join(dir, ocispec.ImageIndexFile)
		if st, serr := os.Stat(index); serr == nil && st.Mode().IsRegular() {
			err = fmt.Errorf("%w; if %s or a manifest that it names is damaged, move it away and copy again: "+
				"what is whole in the layout is kept, but the names of its other images are lost", err, index)
		}
		return nil, err
	}
	return &Target{
		GraphTarget: checkedLayout{store, dir}, Reference: reference, partials: filepath.Join(dir, partialsDir),
		finish: func() error { return syncFiles(dir) }, cleanup: nothing,
	}, nil
}

// openArchive prepares a tar file that is written in the end.
func openArchive(ctx context.Context, path, reference string) (*Target, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".layout-*")
	if err != nil {
		return nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	store, err := oci.NewWithContext(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return &Target{
		GraphTarget: store, Reference: reference, partials: path + partialsDir, unfinished: true,
		finish: func() error {
			if err := writeTar(path, dir); err != nil {
				return err
			}
			return os.RemoveAll(path + partialsDir)
		},
		cleanup: remove,
	}, nil
}

// partialsDir is the name, or its end, of a directory of partials.
const partialsDir = ".partial"

// checkedLayout is a layout that does not trust its own files: a power cut may
// have left one that is there and not written.
type checkedLayout struct {
	*oci.Store
	dir string
}

// Exists reports whether something is there and whole, with all that it names.
// What is damaged is removed, and a manifest that the index has lost is put back:
// by the index alone do readers find what refers to an image.
func (l checkedLayout) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	ok, err := l.Store.Exists(ctx, d)
	if err != nil || !ok {
		return ok, err
	}
	if ok, err := l.whole(d); err != nil || !ok {
		return ok, err
	}
	parts, err := content.Successors(ctx, l.Store, d)
	if err != nil {
		return false, err
	}
	for _, part := range parts {
		if ok, err := l.Exists(ctx, part); err != nil || !ok {
			return ok, err
		}
	}
	if !isManifest(d.MediaType) {
		return true, nil
	}
	name := d.Digest.String()
	listed, err := l.Resolve(ctx, name)
	if err == nil && listed.MediaType != d.MediaType { // what only is there is resolved as a blob
		err = l.Tag(ctx, d, name)
	}
	return err == nil, err
}

// whole compares a blob that is there with its digest.
func (l checkedLayout) whole(d ocispec.Descriptor) (bool, error) {
	path := filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded())
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(verifier, f); err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	if verifier.Verified() {
		return true, nil
	}
	return false, os.Remove(path)
}

// syncFiles makes what was written to the file system of dir durable.
func syncFiles(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
}

// writeTar makes a tar file of the files of dir. The same files give the same
// bytes: names are sorted, and times and owners left out.
func writeTar(path, dir string) error {
	return atomicfile.Fill(path, 0o644, func(out *os.File) error {
		tw := tar.NewWriter(out)
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			inside, err := filepath.Rel(dir, name)
			if err != nil {
				return err
			}
			return addFile(tw, name, filepath.ToSlash(inside))
		})
		return errors.Join(err, tw.Close())
	})
}

func addFile(tw *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: st.Size(), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}
