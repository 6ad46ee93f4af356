package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/sealboot/sealboot/boot/source/tuf"
)

const floorFile = "floor"

// Floor is the rollback floor of a device without a TPM: a file next to the
// cache. It is weak. Anyone who can write the disk can lower it, or raise it above
// everything, so it holds against a hostile mirror and not against a thief. A file that
// cannot be read counts as none. Firmware, which needs a TPM, has no use for it. Report a boot that had no better one.
type Floor struct {
	mu    sync.Mutex
	store *Store
}

var _ tuf.Floor = (*Floor)(nil)

// Floor returns the weak floor that is kept next to the metadata.
func (s *Store) Floor() *Floor { return &Floor{store: s} }

// Check implements [tuf.Floor].
func (f *Floor) Check(_ context.Context, s tuf.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.Below(f.load())
}

// Raise implements [tuf.Floor].
func (f *Floor) Raise(_ context.Context, s tuf.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.load()
	now := s.Raised(old)
	if now == old {
		return nil // a write less for the flash
	}
	data, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("raise the floor: %w", err)
	}
	if err := f.store.replace(".", floorFile, data); err != nil {
		return fmt.Errorf("raise the floor: %w", err)
	}
	return nil
}

func (f *Floor) load() tuf.State {
	var s tuf.State
	data, err := f.store.read(floorFile)
	if err != nil || json.Unmarshal(data, &s) != nil {
		return tuf.State{}
	}
	return s
}
