package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
)

var errPower = errors.New("the power is gone")

// powerFS is a file system in memory that forgets, when the power goes, what
// was not synced: file contents without Sync, names without SyncDir. How much of
// that survives all the same differs from run to run of a real machine; mode
// takes the extremes.
type powerFS struct {
	left int // operations until the power goes
	mode mode
	live map[string]*node // what programs see
	disk map[string]*node // what survives, by name
	dirs map[string]bool
}

// mode says what a power cut does with names that were not synced.
type mode int

const (
	forgetNames mode = iota // none survives
	keepNames               // all survive, with contents as far as they were synced
	tornNames               // all survive, unsynced contents half written
)

type node struct {
	live, synced []byte
}

func newPowerFS() *powerFS {
	return &powerFS{left: -1, live: map[string]*node{}, disk: map[string]*node{}, dirs: map[string]bool{".": true}}
}

// op counts an operation; the last one does not happen.
func (p *powerFS) op() error {
	if p.left == 0 {
		return errPower
	}
	if p.left > 0 {
		p.left--
	}
	return nil
}

// restart is what is there when the power is back.
func (p *powerFS) restart() *powerFS {
	q := newPowerFS()
	q.dirs = p.dirs
	names := p.disk
	if p.mode != forgetNames {
		names = p.live
	}
	for name, n := range names {
		data := n.synced
		if p.mode == tornNames && !bytes.Equal(n.live, n.synced) {
			data = n.live[:len(n.live)/2]
		}
		c := &node{data, data}
		q.live[name], q.disk[name] = c, c
	}
	return q
}

func (p *powerFS) Open(name string) (io.ReadCloser, error) {
	n := p.live[name]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(n.live)), nil
}

func (p *powerFS) Create(name string) (File, error) {
	if err := p.op(); err != nil {
		return nil, err
	}
	if !p.dirs[path.Dir(name)] {
		return nil, fs.ErrNotExist
	}
	n := &node{}
	p.live[name] = n
	return &powerFile{p, n}, nil
}

func (p *powerFS) Rename(old, new string) error {
	if err := p.op(); err != nil {
		return err
	}
	p.live[new] = p.live[old]
	delete(p.live, old)
	return nil
}

func (p *powerFS) Remove(name string) error {
	if err := p.op(); err != nil {
		return err
	}
	delete(p.live, name)
	return nil
}

func (p *powerFS) Mkdir(name string) error {
	if err := p.op(); err != nil {
		return err
	}
	p.dirs[name] = true
	return nil
}

func (p *powerFS) SyncDir(dir string) error {
	if err := p.op(); err != nil {
		return err
	}
	maps.DeleteFunc(p.disk, func(name string, _ *node) bool { return path.Dir(name) == dir })
	for name, n := range p.live {
		if path.Dir(name) == dir {
			p.disk[name] = n
		}
	}
	return nil
}

type powerFile struct {
	fs *powerFS
	n  *node
}

func (f *powerFile) Write(b []byte) (int, error) {
	if err := f.fs.op(); err != nil {
		f.n.live = append(f.n.live, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.n.live = append(f.n.live, b...)
	return len(b), nil
}

func (f *powerFile) Sync() error {
	if err := f.fs.op(); err != nil {
		return err
	}
	f.n.synced = bytes.Clone(f.n.live)
	return nil
}

func (f *powerFile) Close() error { return nil }
