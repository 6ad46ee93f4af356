// Package unpack turns the layers of a container image into one newc archive:
// the root file system that the kernel unpacks into RAM.
//
// Layers are read from the top one down, so that a file which a lower layer
// has too is written once and nothing is ever taken back: memory beyond the
// archive is one entry a path and a few buffers. The entries count against the
// same budget as the archive, since a whiteout writes nothing and costs an entry
// for each part of its name: 194 KB of them made 12 GiB. Whiteouts, opaque
// directories, replaced files, hard links and device nodes come out as they
// would from unpacking the layers one after the other; the differential tests
// compare with tools that do that.
//
// The archive starts with the program of package rootinit, which makes the
// root a real mount before the image's own init runs.
//
// An archive has no room for extended attributes. They are dropped, and
// [Stats.Xattrs] counts them: a file loses security.capability, for one.
//
// Every byte of a layer is hostile: absolute names, "..", names that lead
// through a file or a symbolic link of the same layer, links to nowhere, and
// anything beyond the limits of [Options] end the work with an error.
//
// Specification: OCI image-spec, "Image Layer Filesystem Changeset".
package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
)

// Errors that callers can tell apart with errors.Is.
var (
	// ErrHostile is wrapped by errors about entries that no tool makes in
	// good faith, or that mean different things to different tools.
	ErrHostile = errors.New("layer refused")
	// ErrTooLarge is wrapped when the image exceeds a limit of [Options].
	ErrTooLarge = errors.New("image too large")
)

// Defaults and fixed limits.
const (
	DefaultMaxFiles = 1 << 19 // entries
	maxNameBytes    = 64 << 20
	maxParts        = 256 // of a name
	maxRestarts     = 16
	// streamFactor bounds the decompressed layers, which hold hidden files
	// too, in multiples of MaxBytes.
	streamFactor = 8
)

// Layer is one layer's blob: a tar archive as it is or compressed with gzip
// or zstd, told by its first bytes.
type Layer struct {
	Blob io.ReaderAt
	Size int64 // bytes
}

// Options are the limits and wishes of one run.
type Options struct {
	// MaxBytes is the budget of the archive and of what is kept about its paths
	// while it is written, in bytes. Required.
	MaxBytes int64
	// MaxFiles is the most entries of all layers; zero is DefaultMaxFiles.
	MaxFiles int
	// Arch is the GOARCH of the image; empty is that of this program.
	Arch string
	// Keep chooses the regular files whose place in the archive is reported,
	// by path without a leading slash. It may be nil.
	Keep func(path string) bool
	// Progress, if not nil, is told now and then how many bytes of the
	// compressed layers were read, by other goroutines too.
	Progress func(done int64)
}

// Extent is where a file's content is in the archive, in bytes.
type Extent struct{ Offset, Size int64 }

// Stats describes an archive.
type Stats struct {
	Size   int64             // of the archive in bytes
	Files  int               // members
	Kept   map[string]Extent // what Options.Keep chose
	Xattrs map[string]int    // dropped extended attributes: name, number of files
}

// Output is where the archive goes, from its position 0. A file that was just
// created, such as a memfd, will do.
type Output interface {
	io.Writer
	io.WriterAt
	io.Seeker
	Truncate(size int64) error
}

// RAMRoot writes the merged layers, given from the lowest to the top one, to
// out as one archive that is padded to 512 bytes. The same layers give the
// same bytes. On error what is in out is of no use.
func RAMRoot(ctx context.Context, out Output, layers []Layer, opts Options) (*Stats, error) {
	if opts.Arch == "" {
		opts.Arch = runtime.GOARCH
	}
	if opts.MaxFiles == 0 {
		opts.MaxFiles = DefaultMaxFiles
	}
	program, err := rootinit.Program(opts.Arch)
	if err != nil {
		return nil, err
	}
	// An upper layer can put files "into" a directory that a lower layer turns
	// out to have as a symbolic link. The link is then known, and the work
	// starts again: one more pass, and only for images made without their base.
	links := aliases{}
	for range maxRestarts {
		s, err := attempt(ctx, out, layers, opts, program, links)
		if !errors.Is(err, errAlias) {
			return s, err
		}
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		if err := out.Truncate(0); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: upper layers go through more than %d symbolic links", ErrHostile, maxRestarts)
}

// attempt makes one pass over all layers.
func attempt(ctx context.Context, out Output, layers []Layer, opts Options, program string, links aliases) (*Stats, error) {
	m := &merger{
		ctx: ctx, opts: opts, links: links, layers: layers,
		w:     cpio.NewWriter(out),
		stats: &Stats{Kept: map[string]Extent{}, Xattrs: map[string]int{}},
	}
	if err := m.prologue(program); err != nil {
		return nil, err
	}
	for i := len(layers); i >= 1; i-- {
		m.layer = i
		if err := m.mergeLayer(); err != nil {
			return nil, fmt.Errorf("unpack layer %d of %d: %w", i, len(layers), err)
		}
	}
	if err := m.w.Close(); err != nil {
		return nil, fmt.Errorf("write root archive: %w", err)
	}
	if err := m.markLinked(out); err != nil {
		return nil, fmt.Errorf("write root archive: %w", err)
	}
	m.stats.Size = m.w.Offset()
	return m.stats, nil
}

// prologue writes what the first process needs (see rootinit).
func (m *merger) prologue(program string) error {
	for _, h := range []cpio.Header{
		{Name: ".extra", Mode: cpio.ModeDir | 0o755},
		{Name: reserved, Mode: cpio.ModeDir | 0o700},
		{Name: rootinit.NewRoot, Mode: cpio.ModeDir | 0o700},
		{Name: rootinit.Path, Mode: cpio.ModeRegular | 0o755, Size: uint32(len(program))},
	} {
		if err := m.begin(&h); err != nil {
			return err
		}
	}
	_, err := io.WriteString(m.w, program)
	return err
}

// What is kept about paths, in bytes of memory as the Go runtime lays them out.
const (
	nodeBytes = 384 // a node, and its place in the map above it
	fileBytes = 160 // a file, without its names
	linkBytes = 384 // a hard link whose target was not met yet
	keptBytes = 128 // a file that Options.Keep chose
)

// keepBytes takes n bytes of the budget for what is kept about the path name.
func (m *merger) keepBytes(n int, name string) error {
	m.kept += int64(n)
	return m.room(0, name)
}

// room checks that the archive can grow by n bytes for name.
func (m *merger) room(n int64, name string) error {
	if need := m.w.Offset() + n + m.kept; need > m.opts.MaxBytes {
		return fmt.Errorf("%w: root archive needs at least %d MiB at %.80q, allowed are %d MiB",
			ErrTooLarge, need>>20, name, m.opts.MaxBytes>>20)
	}
	return nil
}

// begin writes a header after checking the limits.
func (m *merger) begin(h *cpio.Header) error {
	const overhead = 1024 // header, padding and the end of the archive, at most
	if err := m.room(int64(h.Size)+int64(len(h.Name))+overhead, h.Name); err != nil {
		return err
	}
	if m.stats.Files++; m.stats.Files > m.opts.MaxFiles {
		return fmt.Errorf("%w: more than %d files", ErrTooLarge, m.opts.MaxFiles)
	}
	if h.Ino == 0 {
		m.ino++
		h.Ino = m.ino
	}
	h.Nlink = max(h.Nlink, 1)
	return m.w.WriteHeader(h)
}

// markLinked sets the link count of the first members of hard links, which
// was not known when they were written. The kernel links members that have
// the same inode number and a count of at least 2; it does not look further.
func (m *merger) markLinked(out io.WriterAt) error {
	const nlinkField = 6 + 4*8
	for _, at := range m.linked {
		if _, err := out.WriteAt([]byte("00000002"), at+nlinkField); err != nil {
			return err
		}
	}
	return nil
}
