// Package floor keeps the rollback floor: the oldest versions that the loader
// still boots, in an NV index of the TPM, so that wiping every disk does not bring
// an old image back.
//
// The index can be written only while the image PCR is zero, that is by the loader
// before it measures an image: its only write authority is a policy on that PCR.
// An operating system with all owner rights can undefine the index and define it
// again, but it cannot write the new one, which therefore reads as uninitialised;
// any other index in its place has another Name, or another authorization value,
// which no Name covers but reading meets. All are errors, never an empty
// floor. What an operating system can do is to deny service, until the floor is
// repaired on the word of somebody who is trusted.
package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
	"github.com/sealboot/sealboot/measure/tpm"
)

// Index is the NV index of the floor, in the range of the TPM's owner.
const Index tpm2.TPMHandle = 0x01805ea1

var (
	// ErrMissing means that there is no floor: the machine was never provisioned,
	// or somebody undefined the index.
	ErrMissing = errors.New("no rollback floor in the TPM")
	// ErrRedefined means that the index is not the one that we define, or that
	// the TPM does not let us read it.
	ErrRedefined = errors.New("rollback floor was redefined by somebody else")
	// ErrUninitialised means that the index is ours but was never written:
	// provisioning did not finish, or somebody defined it anew.
	ErrUninitialised = errors.New("rollback floor was never written")
	// ErrTorn means that no slot of the index is whole.
	ErrTorn = errors.New("rollback floor is damaged")
	// ErrExists means that there is a floor already.
	ErrExists = errors.New("there is a rollback floor already")
	// ErrPermanent means that somebody put an index in the place of the floor that
	// cannot be removed with the rights of the TPM's owner, nor with those that the
	// firmware left to everybody.
	ErrPermanent = errors.New("what is in place of the rollback floor cannot be removed")
	// ErrOwner means that the TPM does not accept us as its owner.
	ErrOwner = errors.New("the TPM's owner has a password, which the loader does not know; clear the TPM in the firmware's setup")
	// ErrClosed means that the floor cannot be changed any more in this boot: an
	// image was measured, or the floor was locked.
	ErrClosed = errors.New("rollback floor cannot be changed until the machine restarts")
)

// Destroyed tells a floor that is missing, damaged or somebody else's from a TPM
// that does not answer: only the former can be repaired.
func Destroyed(err error) bool {
	return errors.Is(err, ErrMissing) || errors.Is(err, ErrRedefined) || errors.Is(err, ErrUninitialised) || errors.Is(err, ErrTorn)
}

// Store is the floor of a TPM. Only TPM must be set.
//
// The hierarchy of the owner must have an empty authorization value when a floor
// is provisioned or repaired.
type Store struct {
	TPM *tpm.TPM
	PCR int // the image PCR; 0 is [event.PCRImage]
}

// Provision defines the floor and writes it for the first time. It fails with
// [ErrExists] if the index is defined, whatever it is.
func (s Store) Provision(ctx context.Context, r Record) error {
	if err := s.provision(ctx, r); err != nil {
		return fmt.Errorf("provision rollback floor: %w", err)
	}
	return nil
}

func (s Store) provision(ctx context.Context, r Record) error {
	public, err := s.public(ctx)
	if err != nil {
		return err
	}
	slot, err := encodeSlot(1, r)
	if err != nil {
		return err
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: owner(),
		PublicInfo: tpm2.New2B(*public),
	}.Execute(s.TPM.With(ctx))
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		return ErrExists
	}
	if err != nil {
		return fmt.Errorf("define NV index %#x: %w", Index, owned(err))
	}
	return s.write(ctx, 0, slot)
}

// Repair replaces whatever is at the index by a new floor. Only a signed order
// of somebody trusted, made for this very boot, is a reason to call it.
func (s Store) Repair(ctx context.Context, r Record) error {
	if err := s.repair(ctx, r); err != nil {
		return fmt.Errorf("repair rollback floor: %w", err)
	}
	return nil
}

func (s Store) repair(ctx context.Context, r Record) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.remove(ctx); err != nil {
		return fmt.Errorf("undefine NV index %#x: %w", Index, err)
	}
	return s.provision(ctx, r)
}

// remove undefines the index, if there is one.
func (s Store) remove(ctx context.Context) error {
	found, name, err := s.TPM.NVPublic(ctx, Index)
	if errors.Is(err, tpm.ErrNoNV) {
		return nil
	}
	if err != nil && !errors.Is(err, tpm.ErrNVAlgorithm) {
		return err
	}
	by := owner()
	if found.Attributes.PlatformCreate {
		// Firmware should keep the platform's rights to itself. Where it does not, they also remove what was made with them.
		by.Handle = tpm2.TPMRHPlatform
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: by,
		NVIndex:    tpm2.NamedHandle{Handle: Index, Name: name},
	}.Execute(s.TPM.With(ctx))
	if err != nil && found.Attributes.PlatformCreate {
		return fmt.Errorf("%w: it was defined with the rights of the platform, which takes its firmware to remove: %w", ErrPermanent, err)
	}
	return owned(err)
}

// Read returns the floor. Its errors [ErrMissing], [ErrRedefined],
// [ErrUninitialised] and [ErrTorn] all mean that nothing may be booted as if the
// floor were low.
func (s Store) Read(ctx context.Context) (Record, error) {
	r, _, _, err := s.read(ctx)
	if err != nil {
		return Record{}, fmt.Errorf("read rollback floor: %w", err)
	}
	return r, nil
}

func (s Store) read(ctx context.Context) (r Record, slot int, sequence uint32, err error) {
	if _, err := s.check(ctx); err != nil {
		return Record{}, 0, 0, err
	}
	content, err := s.TPM.ReadNV(ctx, Index)
	if err != nil {
		return Record{}, 0, 0, refused(err)
	}
	return newest(content)
}

// Raise checks a candidate against the floor and lifts the floor to it. It returns
// the floor as it is then. It fails with [ErrRollback], with [ErrClosed], or with
// what [Store.Read] fails with; after any other error the floor is the old one or
// the new one.
func (s Store) Raise(ctx context.Context, candidate Record) (Record, error) {
	r, err := s.raise(ctx, candidate)
	if err != nil {
		return Record{}, fmt.Errorf("raise rollback floor: %w", err)
	}
	return r, nil
}

func (s Store) raise(ctx context.Context, candidate Record) (Record, error) {
	old, slot, sequence, err := s.read(ctx)
	if err != nil {
		return Record{}, err
	}
	if err := old.Check(candidate); err != nil {
		return Record{}, err
	}
	raised := old.Raised(candidate)
	encoded, err := encodeSlot(after(sequence), raised)
	if err != nil {
		return Record{}, err
	}
	// The TPM's flash wears out: most boots change nothing and write nothing.
	if same, err := encodeSlot(after(sequence), old); err == nil && bytes.Equal(same, encoded) {
		return old, nil
	}
	return raised, s.write(ctx, slots-1-slot, encoded)
}

// Lock makes the floor unchangeable until the TPM is reset. Extending the image
// PCR has the same effect a little later.
func (s Store) Lock(ctx context.Context) error {
	name, err := s.check(ctx)
	if err == nil {
		_, err = tpm2.NVWriteLock{
			AuthHandle: tpm2.AuthHandle{Handle: Index, Name: name, Auth: s.writer(ctx)},
			NVIndex:    tpm2.NamedHandle{Handle: Index, Name: name},
		}.Execute(s.TPM.With(ctx))
	}
	if err != nil {
		return fmt.Errorf("lock rollback floor: %w", closed(err))
	}
	return nil
}

// write writes one slot and reads it back.
func (s Store) write(ctx context.Context, slot int, data []byte) error {
	_, name, err := s.TPM.NVPublic(ctx, Index)
	if err != nil {
		return err
	}
	if _, err := (tpm2.NVWrite{
		AuthHandle: tpm2.AuthHandle{Handle: Index, Name: name, Auth: s.writer(ctx)},
		NVIndex:    tpm2.NamedHandle{Handle: Index, Name: name},
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data},
		Offset:     uint16(slot * slotSize),
	}).Execute(s.TPM.With(ctx)); err != nil {
		return fmt.Errorf("write slot %d: %w", slot, closed(err))
	}
	content, err := s.TPM.ReadNV(ctx, Index)
	if err != nil {
		return err
	}
	if !bytes.Equal(content[slot*slotSize:(slot+1)*slotSize], data) {
		return fmt.Errorf("write slot %d: %w: it does not read back", slot, ErrTorn)
	}
	return nil
}

// open fails with [ErrClosed] if the image PCR is not zero, before anything is
// done that could not be finished.
func (s Store) open(ctx context.Context) error {
	bank, err := s.bank(ctx)
	if err != nil {
		return err
	}
	values, err := s.TPM.ReadPCRs(ctx, bank, []int{s.pcr()})
	if err != nil {
		return err
	}
	if !bytes.Equal(values[s.pcr()], pcr.Zero(bank)) {
		return fmt.Errorf("%w: PCR %d is not zero", ErrClosed, s.pcr())
	}
	return nil
}

func (s Store) pcr() int {
	if s.PCR == 0 {
		return event.PCRImage
	}
	return s.PCR
}
