// Package store keeps verified TUF metadata in a directory.
//
// It promises that a power cut at any moment leaves, for every file, what was
// there before or what was being written, complete. It does not promise that
// the directory is honest: anyone who loads from it verifies again. Nor does it promise that
// the directory can be written: a [Store] says so, and a [Fallback] goes on in memory.
//
// The directory holds ROLE.json for every role, with the role percent-encoded and
// the bytes as they were received, and roots/N.root for every root that was
// accepted.
package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/sealboot/sealboot/boot/base/regular"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

const (
	rootsDir = "roots"
	maxFile  = 8 << 20 // bytes of a file that is loaded; no metadata is larger
	maxName  = 200     // bytes of a file name, without its suffix
)

// FS is what the store does to a file system. [Dir] is the real one; tests
// take the power away in the middle of it.
type FS interface {
	Open(name string) (io.ReadCloser, error)
	// Create makes an empty file, replacing what was there.
	Create(name string) (File, error)
	Rename(old, new string) error
	Remove(name string) error
	// Mkdir succeeds if the directory exists.
	Mkdir(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
}

// File is a file being written.
type File interface {
	io.WriteCloser
	Sync() error
}

// Store is a [tuf.Store] on a file system.
type Store struct{ fs FS }

var _ tuf.Store = (*Store)(nil)

// New returns a store on fsys, whose root directory exists.
func New(fsys FS) *Store { return &Store{fs: fsys} }

// Open returns a store in the directory dir, which exists, and a function that
// releases it.
func Open(dir string) (*Store, func() error, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the metadata cache: %w", err)
	}
	return New(Dir{root}), root.Close, nil
}

// Load implements [tuf.Store].
func (s *Store) Load(role string) ([]byte, error) { return s.read(roleFile(role)) }

// Save implements [tuf.Store].
func (s *Store) Save(role string, data []byte) error {
	return s.replace(".", roleFile(role), data)
}

// LoadRoot implements [tuf.Store].
func (s *Store) LoadRoot(version int64) ([]byte, error) { return s.read(rootFile(version)) }

// SaveRoot implements [tuf.Store].
func (s *Store) SaveRoot(version int64, data []byte) error {
	if err := s.fs.Mkdir(rootsDir); err != nil {
		return fmt.Errorf("create %s: %w", rootsDir, err)
	}
	if err := s.fs.SyncDir("."); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return s.replace(rootsDir, rootFile(version), data)
}

func rootFile(version int64) string { return fmt.Sprintf("%s/%d.root", rootsDir, version) }

func roleFile(role string) string {
	name := tuf.Escape(role)
	if len(name) > maxName {
		name = fmt.Sprintf("%s-%x", name[:maxName/2], sha256.Sum256([]byte(role)))
	}
	return name + ".json"
}

func (s *Store) read(name string) ([]byte, error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, maxFile)
	}
	return data, nil
}

// replace writes a new file next to the old one, makes it durable, and only
// then gives it the name.
func (s *Store) replace(dir, name string, data []byte) error {
	tmp := name + ".tmp"
	err := s.write(tmp, data)
	if err == nil {
		err = s.fs.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), s.discard(tmp))
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("sync the directory of %s: %w", name, err)
	}
	return nil
}

func (s *Store) write(name string, data []byte) error {
	f, err := s.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *Store) discard(name string) error {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Dir is the [FS] below a directory, which no name can leave.
type Dir struct{ Root *os.Root }

// Open implements [FS].
func (d Dir) Open(name string) (io.ReadCloser, error) {
	return regular.Open(d.Root, name, os.O_RDONLY, 0)
}

// Create implements [FS]. What has the name already may be anything, so it goes.
func (d Dir) Create(name string) (File, error) {
	if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.Root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

// Rename implements [FS].
func (d Dir) Rename(old, new string) error { return d.Root.Rename(old, new) }

// Remove implements [FS].
func (d Dir) Remove(name string) error { return d.Root.Remove(name) }

// Mkdir implements [FS].
func (d Dir) Mkdir(name string) error {
	if err := d.Root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// SyncDir implements [FS].
func (d Dir) SyncDir(name string) error {
	f, err := d.Root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Memory is a [tuf.Store] for a device without a disk. The zero value is empty.
type Memory struct {
	mu    sync.Mutex
	files map[string][]byte
}

var _ tuf.Store = (*Memory)(nil)

// Load implements [tuf.Store].
func (m *Memory) Load(role string) ([]byte, error) { return m.get(roleFile(role)) }

// Save implements [tuf.Store].
func (m *Memory) Save(role string, data []byte) error { return m.put(roleFile(role), data) }

// LoadRoot implements [tuf.Store].
func (m *Memory) LoadRoot(version int64) ([]byte, error) { return m.get(rootFile(version)) }

// SaveRoot implements [tuf.Store].
func (m *Memory) SaveRoot(version int64, data []byte) error { return m.put(rootFile(version), data) }

func (m *Memory) get(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return data, nil
}

func (m *Memory) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
}

func (m *Memory) put(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string][]byte{}
	}
	m.files[name] = append([]byte(nil), data...)
	return nil
}
