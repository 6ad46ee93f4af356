package unpack

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/sealboot/sealboot/boot/image/cpio"
)

// wanted are hard links of the current layer whose target was not written by
// it, mostly because an upper layer replaced the target.
type wanted struct {
	names  map[string][]string // of the links to a target
	target map[string]string   // of a link
	made   map[string]*file    // of targets in this layer
	found  bool                // since the layer was last read
}

func newWanted() wanted {
	return wanted{names: map[string][]string{}, target: map[string]string{}, made: map[string]*file{}}
}

// link adds name, whose node is n, as one more name of an earlier file.
func (m *merger) link(name string, n *node, h *tar.Header) error {
	target, err := cleanName(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link %q: %w", name, err)
	}
	if target, err = m.links.resolve(target, m.layer); err != nil {
		return err
	}
	if target == name {
		return fmt.Errorf("%w: %q is a hard link to itself", ErrHostile, name)
	}
	if f := m.written(target); f != nil {
		return m.linkTo(name, n, f)
	}
	if further, ok := m.wanted.target[target]; ok {
		target = further
	}
	if err := m.keepBytes(linkBytes+len(name)+len(target), name); err != nil {
		return err
	}
	m.wanted.target[name] = target
	m.wanted.names[target] = append(m.wanted.names[target], name)
	return nil
}

// written returns the file that the current layer wrote for a path, or nil.
func (m *merger) written(name string) *file {
	if n := m.find(name); n != nil && n.layer == m.layer && n.file != nil {
		return n.file
	}
	return m.wanted.made[name]
}

// find returns the node of a path, or nil.
func (m *merger) find(name string) *node {
	n := &m.root
	for part := range strings.SplitSeq(name, "/") {
		if n = n.kids[part]; n == nil {
			return nil
		}
	}
	return n
}

// linkTo writes name as a hard link of f. The kernel does not link symbolic
// links, so those become a copy.
func (m *merger) linkTo(name string, n *node, f *file) error {
	n.file = f
	c := f.header
	c.Name = memberName(name)
	if c.Mode&cpio.ModeType == cpio.ModeSymlink {
		c.Ino = 0
		if err := m.begin(&c); err != nil {
			return err
		}
		_, err := io.WriteString(m.w, f.target)
		return err
	}
	if !f.linked {
		f.linked = true
		m.linked = append(m.linked, f.at)
	}
	if err := m.keep(name, f); err != nil {
		return err
	}
	c.Size, c.Nlink = 0, 2
	return m.begin(&c)
}

// resolveWanted reads this layer again, and lower ones if it must, for the
// targets of hard links that were passed over.
func (m *merger) resolveWanted() error {
	const maxChain = 8 // links to links that upper layers replaced
	for layer := m.layer; layer >= 1; layer-- {
		m.wanted.found = true
		for i := 0; i < maxChain && m.wanted.found && len(m.wanted.names) > 0; i++ {
			m.wanted.found = false
			err := m.each(layer, func(h *tar.Header, body io.Reader) error {
				return m.wantedEntry(layer, h, body)
			})
			if err != nil {
				return err
			}
		}
	}
	for target, names := range m.wanted.names {
		return fmt.Errorf("%w: %q is a hard link to %q, which does not exist", ErrHostile, names[0], target)
	}
	return nil
}

// wantedEntry writes an entry under the names of the hard links that want it.
func (m *merger) wantedEntry(layer int, h *tar.Header, body io.Reader) error {
	if len(m.wanted.names) == 0 {
		return nil
	}
	target, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if target, err = m.links.resolve(target, m.layer); err != nil {
		return err
	}
	names := m.wanted.names[target]
	if names == nil {
		return nil
	}
	delete(m.wanted.names, target)
	m.wanted.found = true
	switch h.Typeflag {
	case tar.TypeDir:
		return fmt.Errorf("%w: %q is a hard link to the directory %q", ErrHostile, names[0], target)
	case tar.TypeLink: // a link to a link
		next, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		if next, err = m.links.resolve(next, m.layer); err != nil {
			return err
		}
		if f := m.written(next); f != nil && layer == m.layer {
			return m.linkAll(names, f)
		}
		if err := m.keepBytes(linkBytes+len(next), names[0]); err != nil {
			return err
		}
		return m.passOn(names, next)
	}
	first := m.find(names[0])
	if err := m.write(names[0], first, h, body); err != nil {
		return err
	}
	if layer == m.layer {
		m.wanted.made[target] = first.file
	}
	return m.linkAll(names[1:], first.file)
}

// passOn makes names want another target. The names of two targets are only joined
// at the price of as many entries: a chain of links, each with a name of its own, would
// copy all names before it again and again.
func (m *merger) passOn(names []string, target string) error {
	waiting := m.wanted.names[target]
	if waiting == nil {
		m.wanted.names[target] = names
		return nil
	}
	if err := m.work(len(names)); err != nil {
		return err
	}
	m.wanted.names[target] = append(waiting, names...)
	return nil
}

// linkAll writes names as hard links of f.
func (m *merger) linkAll(names []string, f *file) error {
	for _, name := range names {
		if err := m.linkTo(name, m.find(name), f); err != nil {
			return err
		}
	}
	return nil
}

// aliases are the symbolic links of lower layers that upper layers use as
// directories: the link's path, then where it leads.
type aliases map[string]alias

type alias struct {
	target string
	layer  int // the layer that has the link
}

// add remembers a link and asks for a new start.
func (a aliases) add(name, target string, layer int) error {
	to := strings.TrimPrefix(path.Clean("/"+target), "/")
	if !path.IsAbs(target) {
		to = strings.TrimPrefix(path.Join("/", path.Dir(name), target), "/")
	}
	if _, known := a[name]; known || to == "" || to == name || strings.HasPrefix(to, name+"/") {
		return fmt.Errorf("%w: %q is a directory of an upper layer and a link to %q", ErrHostile, name, target)
	}
	a[name] = alias{to, layer}
	return errAlias
}

// resolve replaces the links on the way to name, as a layer above them meets
// them. The last part of name is not followed.
func (a aliases) resolve(name string, layer int) (string, error) {
	if len(a) == 0 {
		return name, nil
	}
	const tooMany = 40 // as in the kernel
	for range tooMany {
		next, again := a.step(name, layer)
		if !again {
			return name, nil
		}
		name = next
	}
	return "", fmt.Errorf("%w: too many symbolic links on the way to %q", ErrHostile, name)
}

// step replaces the first link on the way to name.
func (a aliases) step(name string, layer int) (string, bool) {
	for at, c := range name {
		if c != '/' {
			continue
		}
		if l, ok := a[name[:at]]; ok && layer > l.layer {
			return l.target + name[at:], true
		}
	}
	return name, false
}
