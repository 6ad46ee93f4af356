package store

import (
	"fmt"
	"sync"

	"github.com/sealboot/sealboot/boot/source/tuf"
)

// Fallback is a [tuf.Store] on a disk that may be full, read-only, broken or hostile. What cannot be written there is
// kept in memory: the refresh that needs it goes on, and the next boot fetches it again. It is safe for concurrent use.
type Fallback struct {
	disk *Store
	warn func(error)

	mu     sync.Mutex
	memory Memory // what the disk did not take, and what is newer than there
	warned bool
}

var _ tuf.Store = (*Fallback)(nil)

// NewFallback returns a store on disk. warn is told of the first file that cannot be written.
func NewFallback(disk *Store, warn func(error)) *Fallback {
	return &Fallback{disk: disk, warn: warn}
}

// Load implements [tuf.Store].
func (f *Fallback) Load(role string) ([]byte, error) { return f.get(roleFile(role)) }

// Save implements [tuf.Store].
func (f *Fallback) Save(role string, data []byte) error {
	return f.put(roleFile(role), data, f.disk.Save(role, data))
}

// LoadRoot implements [tuf.Store].
func (f *Fallback) LoadRoot(version int64) ([]byte, error) { return f.get(rootFile(version)) }

// SaveRoot implements [tuf.Store].
func (f *Fallback) SaveRoot(version int64, data []byte) error {
	return f.put(rootFile(version), data, f.disk.SaveRoot(version, data))
}

// Floor returns the weak floor on the disk. It does not fall back: a floor in memory would be none.
func (f *Fallback) Floor() *Floor { return f.disk.Floor() }

func (f *Fallback) get(name string) ([]byte, error) {
	data, err := f.memory.get(name)
	if err == nil {
		return data, nil
	}
	return f.disk.read(name)
}

// put keeps what the disk has answered err to. A later file of the same name replaces what is in memory, wherever it is
// written.
func (f *Fallback) put(name string, data []byte, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.memory.drop(name)
		return nil
	}
	if !f.warned {
		f.warned = true
		f.warn(fmt.Errorf("metadata cache: %w: going on without, so the next boot fetches it again", err))
	}
	return f.memory.put(name, data)
}
