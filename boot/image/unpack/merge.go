package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"

	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
)

// reserved is the directory that belongs to Sealboot in the booted system.
const reserved = ".extra/sealboot"

// Names with a meaning in layers.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// node is what is known about one path after the layers read so far. Layers
// are numbered from 1, the lowest; "hidden from 3" hides layers 1 and 2.
type node struct {
	kids       map[string]*node
	hidden     int   // this path and all below it
	hiddenKids int   // all below this path
	layer      int   // the layer whose entry was written here; 0 if none was
	dir        bool  // what was written, or is implied by a path below, is a directory
	implied    int   // the highest layer with a path below this one
	below      int   // the last layer read with a path below this one
	made       bool  // the directory is in the archive already
	file       *file // what was written, unless it was a directory
}

// file is what a hard link to a written member needs.
type file struct {
	header cpio.Header
	at     int64  // of its header in the archive
	body   Extent // of its content in the archive
	target string // of a symbolic link
	linked bool
}

// merger holds the state of one pass over the layers.
type merger struct {
	ctx    context.Context
	opts   Options
	layers []Layer
	links  aliases
	w      *cpio.Writer
	stats  *Stats

	layer   int // the one being read
	root    node
	ino     uint32
	entries int
	names   int64        // bytes of all names
	kept    int64        // bytes of memory for what is kept about paths
	stream  int64        // decompressed bytes read
	read    atomic.Int64 // compressed bytes read
	linked  []int64      // offsets of the headers that markLinked changes
	wanted  wanted
}

// mergeLayer reads the current layer and adds what upper layers left visible.
func (m *merger) mergeLayer() error {
	m.wanted = newWanted()
	if err := m.each(m.layer, m.entry); err != nil {
		return err
	}
	return m.resolveWanted()
}

// each calls do for every entry of a layer.
func (m *merger) each(layer int, do func(*tar.Header, io.Reader) error) error {
	in, err := m.open(m.layers[layer-1])
	if err != nil {
		return err
	}
	defer in.Close()
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		m.names += int64(len(h.Name))
		if err := m.work(1); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := do(h, tr); err != nil {
			return err
		}
	}
}

// work counts entries, and what costs as much as reading some.
func (m *merger) work(entries int) error {
	m.entries += entries
	if m.entries > 4*m.opts.MaxFiles || m.names > maxNameBytes {
		return fmt.Errorf("%w: %d entries with %d bytes of names", ErrTooLarge, m.entries, m.names)
	}
	return nil
}

// entry merges one tar entry.
func (m *merger) entry(h *tar.Header, body io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name, err = m.links.resolve(name, m.layer); err != nil {
		return err
	}
	if strings.Count(name, "/") >= maxParts {
		return fmt.Errorf("%w: more than %d directories in each other, %.80q", ErrHostile, maxParts, name)
	}
	if base := path.Base(name); strings.HasPrefix(base, whiteoutPrefix) {
		return m.whiteout(name, base)
	}
	if err := checkReserved(name, h.Typeflag); err != nil {
		return err
	}
	if links := m.wanted.names[name]; links != nil {
		return fmt.Errorf("%w: the hard link %q stands before its target %q in one layer", ErrHostile, links[0], name)
	}
	if name == "." {
		return m.rootEntry(h)
	}
	if h.Typeflag == tar.TypeDir {
		return m.dirEntry(name, h)
	}
	return m.fileEntry(name, h, body)
}

// whiteout hides what lower layers have at one path, or below a directory.
func (m *merger) whiteout(name, base string) error {
	dir := path.Dir(name)
	switch {
	case base == opaqueMarker:
		n, err := m.visible(dir)
		if err != nil {
			return err
		}
		if n != nil {
			n.hiddenKids = max(n.hiddenKids, m.layer)
		}
	case strings.HasPrefix(base, aufsPrefix): // left over from aufs, no content
	default:
		victim := strings.TrimPrefix(base, whiteoutPrefix)
		if victim == "" || victim == "." || victim == ".." {
			return fmt.Errorf("%w: whiteout %q", ErrHostile, name)
		}
		n, err := m.visible(path.Join(dir, victim))
		if err != nil {
			return err
		}
		if n != nil {
			n.hidden = max(n.hidden, m.layer)
		}
	}
	return nil
}

// visible returns the node of a path in the current layer, or nil if an upper
// layer hides it. The directories above are marked as implied.
func (m *merger) visible(name string) (*node, error) {
	n := &m.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if n.hiddenKids > m.layer {
			return nil, nil
		}
		kid := n.kids[part]
		if kid != nil && kid.hidden > m.layer {
			return nil, nil
		}
		if kid == nil {
			if err := m.keepBytes(nodeBytes+len(part), name); err != nil {
				return nil, err
			}
			if n.kids == nil {
				n.kids = map[string]*node{}
			}
			kid = &node{}
			n.kids[strings.Clone(part)] = kid // not the whole name
		}
		n.implied, n.below = max(n.implied, m.layer), m.layer
		n = kid
	}
	return n, nil
}

func (m *merger) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root is not a directory", ErrHostile)
	}
	if m.root.layer > m.layer {
		return nil
	}
	m.root.layer = m.layer
	return m.makeDir(".", h)
}

func (m *merger) dirEntry(name string, h *tar.Header) error {
	n, err := m.visible(name)
	if err != nil {
		return err
	}
	switch {
	case n == nil, n.layer > m.layer && n.dir:
		return m.makeParents(name)
	case n.layer == m.layer && !n.dir:
		return fmt.Errorf("%w: %q is a directory and something else", ErrHostile, name)
	case name == rootinit.Path:
		return errInitDir
	}
	if err := m.makeParents(name); err != nil {
		return err
	}
	n.layer, n.dir, n.made = m.layer, true, true
	return m.makeDir(name, h)
}

// makeDir writes a directory, or writes it again: the kernel then changes
// only its owner and mode.
func (m *merger) makeDir(name string, h *tar.Header) error {
	c, err := m.convert(name, h)
	if err != nil {
		return err
	}
	return m.begin(c)
}

// makeParents writes the directories above name that no entry has made yet, as
// far as upper layers leave them visible. A lower layer's entry may still give
// them their owner and mode.
func (m *merger) makeParents(name string) error {
	n := &m.root
	for at, c := range name {
		if c != '/' {
			continue
		}
		closed := n.hiddenKids > m.layer
		n = n.kids[name[strings.LastIndexByte(name[:at], '/')+1:at]]
		if closed || n == nil || n.hidden > m.layer {
			return nil
		}
		if n.layer != 0 && !n.dir {
			return fmt.Errorf("%w: %q is below %q, which is not a directory", ErrHostile, name, name[:at])
		}
		if n.made {
			continue
		}
		if name[:at] == rootinit.Path {
			return errInitDir
		}
		n.dir, n.made = true, true
		if err := m.begin(&cpio.Header{Name: name[:at], Mode: cpio.ModeDir | 0o755}); err != nil {
			return err
		}
	}
	return nil
}

// fileEntry merges anything but a directory.
func (m *merger) fileEntry(name string, h *tar.Header, body io.Reader) error {
	n, err := m.visible(name)
	if err != nil {
		return err
	}
	if n == nil {
		return m.makeParents(name)
	}
	n.hidden = max(n.hidden, m.layer) // from lower layers, whatever wins here
	switch {
	case n.below == m.layer:
		return fmt.Errorf("%w: %q is a directory and something else", ErrHostile, name)
	case n.layer > m.layer: // a directory of an upper layer
		return m.makeParents(name)
	case n.layer == m.layer && (n.dir || n.file == nil || n.file.linked):
		return fmt.Errorf("%w: %q twice in one layer, as different things", ErrHostile, name)
	case n.layer == 0 && n.implied > m.layer && h.Typeflag == tar.TypeSymlink:
		return m.links.add(name, h.Linkname, m.layer)
	case n.layer == 0 && n.implied > 0:
		return fmt.Errorf("%w: %q is a directory and something else", ErrHostile, name)
	}
	if err := m.makeParents(name); err != nil {
		return err
	}
	n.layer = m.layer
	if h.Typeflag == tar.TypeLink {
		return m.link(name, n, h)
	}
	return m.write(name, n, h, body)
}

// write adds one member and remembers it for hard links.
func (m *merger) write(name string, n *node, h *tar.Header, body io.Reader) error {
	c, err := m.convert(name, h)
	if err != nil {
		return err
	}
	at := m.w.Offset()
	at += -at & 3 // where the header goes after padding
	if err := m.begin(c); err != nil {
		return err
	}
	n.file = &file{header: *c, at: at, body: Extent{m.w.Offset(), int64(c.Size)}}
	if err := m.keepBytes(fileBytes+len(c.Name), name); err != nil {
		return err
	}
	if c.Mode&cpio.ModeType == cpio.ModeSymlink {
		n.file.target = strings.Clone(h.Linkname) // not its whole PAX header
		if err := m.keepBytes(len(h.Linkname), name); err != nil {
			return err
		}
		_, err := io.WriteString(m.w, h.Linkname)
		return err
	}
	if err := m.keep(name, n.file); err != nil {
		return err
	}
	if c.Size == 0 {
		return nil
	}
	if _, err := m.w.ReadFrom(body); err != nil {
		return fmt.Errorf("copy %q: %w", name, err)
	}
	return nil
}

// keep notes where a regular file is if the caller asked for it.
func (m *merger) keep(name string, f *file) error {
	if f.header.Mode&cpio.ModeType != cpio.ModeRegular || m.opts.Keep == nil || !m.opts.Keep(name) {
		return nil
	}
	m.stats.Kept[name] = f.body
	return m.keepBytes(keptBytes+len(name), name)
}

var errInitDir = fmt.Errorf("%w: %q is a directory, the first process needs this name", ErrHostile, rootinit.Path)

// errAlias makes RAMRoot start again.
var errAlias = errors.New("a directory of an upper layer is a symbolic link")
