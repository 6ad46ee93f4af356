package loader

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
)

// nvFloor is the rollback floor in the TPM, for the flow and for TUF.
//
// Without a floor nothing boots: an operating system with owner rights can
// undefine the index, and must gain nothing by it. A site config may say that the
// floor is optional; then an image from a registry or a medium boots without one,
// if it has no version or attestd judges it, and the record says so. A floor that was redefined or damaged stops everything in any case.
// The way out is attestd's signed order to write it anew, which is measured.
type nvFloor struct {
	tpm      *tpmDevice
	clock    *clock.Clock
	required bool
	attested bool // attestd judges the boot, and knows whether the machine had a floor

	healthy  uint64  // image version that attestd knows to have run well here
	order    *uint64 // to write it anew with this image version, from attestd; nil without an order
	repaired bool
}

var (
	_ flow.Floor = (*nvFloor)(nil)
	_ tuf.Floor  = tufFloor{}
)

func (f *nvFloor) store() floor.Store { return floor.Store{TPM: f.tpm.tpm, PCR: f.tpm.imagePCR} }

// accept refuses, before it is fetched, what Check would refuse afterwards, so that the next place of a source is asked.
// An order of attestd's is carried out by Check, but not for an image below the floor that it orders. Where there is
// neither, Check says what follows.
func (f *nvFloor) accept(ctx context.Context, c *flow.Candidate) error {
	if f.tpm.tpm == nil {
		return nil // a dry run, or a machine whose floor is no such
	}
	if err := outdated(c, f.healthy); err != nil {
		return err
	}
	image := floor.Record{ImageVersion: signedVersion(c)}
	r, err := f.store().Read(ctx)
	if err == nil {
		err = r.Check(image)
	}
	switch {
	case f.order != nil && lost(err):
		return floor.Record{ImageVersion: *f.order}.Check(image)
	case floor.Destroyed(err):
		return nil
	}
	return err
}

// lost tells whether an order of attestd's is needed to go on: the floor is gone, or shuts the image out.
func lost(err error) bool {
	return floor.Destroyed(err) || errors.Is(err, floor.ErrRollback) || errors.Is(err, floor.ErrJump)
}

// outdated refuses what attestd would deny once it is measured: an image below the version that it knows to have run well
// on this machine. In the boot after that was reported, the floor in the TPM does not say so yet. Of an image that attestd
// alone judges, the version is its own word: it may only speak against it.
func outdated(c *flow.Candidate, healthy uint64) error {
	switch {
	case c.Version >= healthy || c.Version == 0 && !c.Vouched:
		return nil
	case c.Version == 0:
		return fmt.Errorf("%w: the image has no version, and version %d has run here and was reported healthy", floor.ErrRollback, healthy)
	}
	return fmt.Errorf("%w: image version %d, and version %d has run here and was reported healthy", floor.ErrRollback, c.Version, healthy)
}

func (f *nvFloor) Check(ctx context.Context, c *flow.Candidate, hello *flow.Hello) error {
	if hello != nil {
		if err := outdated(c, hello.HealthyVersion); err != nil {
			return err
		}
	}
	r, err := f.store().Read(ctx)
	if err == nil {
		err = r.Check(candidateRecord(c))
	}
	switch {
	case lost(err) && hello != nil && hello.RepairFloor != nil:
		return f.repair(ctx, c, hello)
	case f.dispensable(err, c):
		return nil
	case floor.Destroyed(err):
		return fmt.Errorf("%w; enrol the machine with its TPM, or have attestd order a repair (sealboot device repair-floor)", err)
	}
	return err
}

// repair writes the floor anew as attestd orders, where there is none, or one that shuts out the image at hand: anyone who has
// booted a medium of his own could have raised it above everything. An order that the image does not meet either is not
// carried out: it must have been for another.
func (f *nvFloor) repair(ctx context.Context, c *flow.Candidate, hello *flow.Hello) error {
	r := floor.Record{ImageVersion: *hello.RepairFloor} // Raise adds the time, one step
	if err := r.Check(candidateRecord(c)); err != nil {
		return fmt.Errorf("attestd orders a rollback floor that this image is below, so it was not written: %w; order a lower one "+
			"(sealboot device repair-floor), 0 for images without versions", err)
	}
	if err := f.store().Repair(ctx, r); err != nil {
		return err
	}
	f.repaired = true
	return nil
}

func (f *nvFloor) Raise(ctx context.Context, c *flow.Candidate, hello *flow.Hello) (event.Record, error) {
	old, err := f.store().Read(ctx)
	if f.dispensable(err, c) {
		return event.Record{Type: event.TypeFloor, Name: event.FloorAbsent}, nil
	}
	if err != nil {
		return event.Record{}, err
	}
	// The image floor follows what was reported healthy, the time what was
	// signed for this boot. Neither is lowered.
	next, healthy := candidateRecord(c), uint64(0)
	if hello != nil {
		healthy, next.Time = hello.HealthyVersion, f.clock.Now()
	}
	next.ImageVersion = max(old.ImageVersion, min(next.ImageVersion, healthy))
	next.Time = f.clamp(old.Time, next.Time)
	now, err := f.store().Raise(ctx, next)
	if err != nil {
		return event.Record{}, err
	}
	if err := f.store().Lock(ctx); err != nil {
		return event.Record{}, err
	}
	return f.record(now), nil
}

// timeStep is how far one boot may move the time floor. A wrong time that somebody
// trusted has signed would otherwise outlaw every certificate and all metadata for
// years. That the floor lags on a machine that was long off does no harm.
const timeStep = 90 * 24 * time.Hour

// timeGrain is how fine the time floor is. Every step of it is a write to the TPM's flash, which endures 100,000 or so: a
// machine that boots in a loop must not wear it out.
const timeGrain = 24 * time.Hour

// clamp bounds the time floor's way from old to next, in whole days. The clock has refused already what is beyond its own
// horizon.
func (f *nvFloor) clamp(old, next time.Time) time.Time {
	if built := f.clock.Built(); old.Before(built) {
		old = built
	}
	if most := old.Add(timeStep); next.After(most) {
		next = most
	}
	return next.Truncate(timeGrain)
}

func (f *nvFloor) record(r floor.Record) event.Record {
	name := event.FloorNV
	if f.repaired {
		name = event.FloorRepaired
	}
	number := func(v uint64) string { return strconv.FormatUint(v, 10) }
	d := map[string]string{"image": number(r.ImageVersion)}
	if !r.Time.IsZero() {
		d["time"] = r.Time.UTC().Format(time.RFC3339)
	}
	if r.RootVersion != 0 {
		d["root"], d["timestamp"] = number(r.RootVersion), number(r.Timestamp.Version)
		d["snapshot"], d["targets"] = number(r.Snapshot.Version), number(r.Targets.Version)
	}
	return event.Record{Type: event.TypeFloor, Name: name, Detail: d}
}

// dispensable tells whether c may do without the floor that err says is missing.
func (f *nvFloor) dispensable(err error, c *flow.Candidate) bool {
	return errors.Is(err, floor.ErrMissing) && !f.required && c.Trust == nil && (f.attested || signedVersion(c) == 0)
}

// signedVersion is a version that a floor may follow: one that only a mirror's word stands for is none.
func signedVersion(c *flow.Candidate) uint64 {
	if !c.Vouched {
		return 0
	}
	return c.Version
}

// candidateRecord is what c would lift a floor to.
func candidateRecord(c *flow.Candidate) floor.Record {
	var r floor.Record
	if t, ok := c.Trust.(tufTrust); ok {
		r = tufRecord(t.state)
		r.Time = t.signed
	}
	r.ImageVersion = signedVersion(c)
	return r
}

// tufRecord is TUF's state in the form of the floor in the TPM.
func tufRecord(s tuf.State) floor.Record {
	role := func(r tuf.RoleState) floor.Role {
		return floor.Role{Version: uint64(max(0, r.Version)), Keyset: [floor.KeysetSize]byte(r.Keys[:floor.KeysetSize])}
	}
	return floor.Record{
		RootVersion: uint64(max(0, s.RootVersion)),
		RootSHA256:  s.RootSHA256,
		Timestamp:   role(s.Timestamp),
		Snapshot:    role(s.Snapshot),
		Targets:     role(s.Targets),
	}
}

// tufFloor lets TUF refuse what is below the floor already while it refreshes.
// The flow raises it, once the candidate is chosen.
type tufFloor struct{ *nvFloor }

func (f tufFloor) Check(ctx context.Context, s tuf.State) error {
	r, err := f.store().Read(ctx)
	if floor.Destroyed(err) || f.order != nil {
		return nil // the flow decides, when it has the candidate
	}
	if err != nil {
		return err
	}
	next := tufRecord(s)
	next.ImageVersion = r.ImageVersion // not known yet
	return r.Check(next)
}

func (tufFloor) Raise(context.Context, tuf.State) error { return nil }

// refreshFloor is what TUF compares with while it refreshes.
func (m *Machine) refreshFloor(s tuf.Store) tuf.Floor {
	if m.tpm.tpm != nil {
		return tufFloor{m.floor}
	}
	if disk, ok := s.(*store.Fallback); ok {
		return disk.Floor()
	}
	return nil
}

// weakFloor is the floor of a machine without a TPM: a file next to the cache.
type weakFloor struct{ m *Machine }

var _ flow.Floor = (*weakFloor)(nil)

// Check has nothing to compare: TUF has done so while it refreshed.
func (f *weakFloor) Check(context.Context, *flow.Candidate, *flow.Hello) error {
	if f.m.floor.required {
		return errors.New(`no TPM, and the site config wants a rollback floor in one: "floor": "require"`)
	}
	return nil
}

func (f *weakFloor) Raise(ctx context.Context, c *flow.Candidate, _ *flow.Hello) (event.Record, error) {
	r := event.Record{Type: event.TypeFloor, Name: event.FloorAbsent}
	t, ok := c.Trust.(tufTrust)
	if !ok {
		return r, nil
	}
	disk, ok := f.m.metadata(ctx).(*store.Fallback)
	if !ok {
		f.m.o.Console.Warn(errors.New("no TPM and no cache: an older repository would not be noticed"))
		return r, nil
	}
	if err := disk.Floor().Raise(ctx, t.state); err != nil {
		f.m.o.Console.Warn(fmt.Errorf("no TPM, and the cache does not take the rollback floor: an older repository would not be noticed: %w", err))
		return r, nil
	}
	f.m.o.Console.Warn(errors.New("no TPM: the rollback floor is a file, which anyone who has the disk can lower"))
	r.Name = event.FloorDisk
	return r, nil
}
