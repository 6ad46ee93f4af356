package loader

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealboot/sealboot/attest/agent"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/handover"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/tpm"
)

// asOwner runs a command with the rights that every operating system has.
func (w *world) asOwner(f func(ctx context.Context, t *tpm.TPM, owner tpm2.AuthHandle) error) {
	w.t.Helper()
	conn := w.tpm.Open(w.t)
	if err := f(w.t.Context(), conn, tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}); err != nil {
		w.t.Fatal(err)
	}
}

// undefine takes the rollback floor away and returns what it was defined as.
func (w *world) undefine() (public *tpm2.TPMSNVPublic) {
	w.t.Helper()
	w.asOwner(func(ctx context.Context, t *tpm.TPM, owner tpm2.AuthHandle) error {
		found, name, err := t.NVPublic(ctx, floor.Index)
		if err != nil {
			return err
		}
		public = found
		_, err = tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: floor.Index, Name: name}}.Execute(t.With(ctx))
		return err
	})
	return public
}

// floorRecord is what the last boot measured about its floor.
func (w *world) floorRecord() event.Record {
	w.t.Helper()
	entries, err := cel.Parse(w.loaded.handover[handover.Dir+"/"+handover.EventLog])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Record.Type == event.TypeFloor {
			return e.Record
		}
	}
	w.t.Fatal("the log has no floor record")
	return event.Record{}
}

// floor is what the TPM holds.
func (w *world) floor() floor.Record {
	w.t.Helper()
	r, err := (floor.Store{TPM: w.tpm.Open(w.t)}).Read(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// repairFloor is the operator's order, as "sealboot device repair-floor" gives it.
func (w *world) repairFloor(version int64) {
	w.t.Helper()
	devices, err := w.store.Devices(w.t.Context(), "", 1)
	if err == nil {
		err = w.store.RepairFloor(w.t.Context(), devices[0].ID, version, store.Event{Kind: "floor"})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// boots wants the next boot to succeed with a floor record of this name.
func (w *world) boots(name string) {
	w.t.Helper()
	w.reset()
	if outcome, err := w.boot(); outcome != flow.Kexec {
		w.t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if got := w.floorRecord().Name; got != name {
		w.t.Errorf("floor %q was measured; want %q", got, name)
	}
}

// refuses wants the next boot to fail with the error, and nothing to be measured.
func (w *world) refuses(want error) {
	w.t.Helper()
	w.reset()
	w.loaded = nil
	outcome, err := w.boot()
	if outcome != flow.Reboot || !errors.Is(err, want) || w.loaded != nil {
		w.t.Errorf("boot: %v, %v; want %v", outcome, err, want)
	}
	if got := w.pcr12(); strings.Trim(got, "0") != "" {
		w.t.Errorf("PCR 12 is %s; want zero", got)
	}
}

// TestFloorDestroyed lets an operating system undefine and redefine the floor.
// Neither gives it an image, and attestd's order repairs both, once.
func TestFloorDestroyed(t *testing.T) {
	w := newWorld(t)
	w.boots(event.FloorNV)
	public := w.undefine()
	w.refuses(floor.ErrMissing)
	if flat := strings.Join(strings.Fields(w.out.String()), " "); !strings.Contains(flat, "sealboot device repair-floor") {
		t.Errorf("the console does not say what to do:\n%s", &w.out)
	}
	w.repairFloor(0)
	w.boots(event.FloorRepaired)
	w.boots(event.FloorNV)

	// The same index, defined anew: it is not written, and cannot be.
	w.undefine()
	public.Attributes.Written, public.Attributes.WriteLocked = false, false
	w.asOwner(func(ctx context.Context, t *tpm.TPM, owner tpm2.AuthHandle) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(*public)}.Execute(t.With(ctx))
		return err
	})
	w.refuses(floor.ErrUninitialised) // the order of before has ended with its boot
	w.repairFloor(3)
	w.refuses(floor.ErrRollback) // the image has no version, the order wants 3
	w.repairFloor(0)
	w.boots(event.FloorRepaired) // an order that was wrong can be taken back
}

// TestFloorBehindAPassword has somebody with a medium of his own define the floor anew, with an authorization value that
// its Name does not cover, and write it as the loader would. That is no floor, and attestd's order repairs it.
func TestFloorBehindAPassword(t *testing.T) {
	w := newWorld(t)
	public := w.undefine()
	public.Attributes.Written, public.Attributes.WriteLocked = false, false
	w.reset()
	w.asOwner(func(ctx context.Context, t *tpm.TPM, owner tpm2.AuthHandle) error {
		define := tpm2.NVDefineSpace{AuthHandle: owner, Auth: tpm2.TPM2BAuth{Buffer: []byte("secret")}, PublicInfo: tpm2.New2B(*public)}
		if _, err := define.Execute(t.With(ctx)); err != nil {
			return err
		}
		_, name, err := t.NVPublic(ctx, floor.Index)
		if err != nil {
			return err
		}
		policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(_ transport.TPM, s tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicyPCR{PolicySession: s, Pcrs: tpm.Selection(tpm2.TPMAlgSHA256, event.PCRImage)}.Execute(t.With(ctx))
			return err
		})
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: floor.Index, Name: name, Auth: policy},
			NVIndex:    tpm2.NamedHandle{Handle: floor.Index, Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, public.DataSize)},
		}.Execute(t.With(ctx))
		return err
	})
	w.refuses(floor.ErrRedefined)
	w.repairFloor(0)
	w.boots(event.FloorRepaired)
	w.boots(event.FloorNV)
}

// TestFloorTooHigh has somebody with a medium of his own, who can write the floor as the loader can, raise it above
// everything, and a machine that comes from another site with its TUF floor. attestd's order is the way back, once.
func TestFloorTooHigh(t *testing.T) {
	w := newWorld(t)
	w.boots(event.FloorNV)
	oci := w.conf.Sources
	spoil := func(r floor.Record) {
		t.Helper()
		w.reset()
		if _, err := (floor.Store{TPM: w.tpm.Open(t)}).Raise(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	spoil(floor.Record{ImageVersion: 1 << 45, Time: time.Now().AddDate(9, 0, 0)})
	w.refuses(floor.ErrRollback)
	w.repairFloor(0)
	w.boots(event.FloorRepaired)
	if f := w.floor(); f.ImageVersion != 0 || f.Time.After(time.Now()) {
		t.Errorf("the floor is %+v after the repair", f)
	}

	spoil(floor.Record{RootVersion: 99, RootSHA256: [32]byte{9}})
	w.repo(1)
	w.refuses(floor.ErrRollback)
	w.repairFloor(0)
	w.boots(event.FloorRepaired)

	// Without an order nothing goes back, and the order has ended with its boot.
	w.conf.Sources = oci
	spoil(floor.Record{ImageVersion: 7})
	w.refuses(floor.ErrRollback)
}

// TestWrongTimeSigned has attestd's clock a year ahead in a machine's first boot, which writes its floor, and in the
// next. The time floor moves by one step each time, and the machine boots as soon as the clock is right again.
func TestWrongTimeSigned(t *testing.T) {
	w := newWorld(t)
	built := time.Now().UTC().Truncate(time.Second)
	w.conf.BuildTime = built.Format(time.RFC3339)
	w.undefine()
	w.repairFloor(0)
	w.ahead.Store(int64(365 * 24 * time.Hour))
	w.boots(event.FloorRepaired)
	if f := w.floor(); f.Time.After(built.Add(timeStep)) {
		t.Fatalf("time floor %v after a first boot at %v", f.Time, built)
	}
	w.ahead.Store(0)
	w.boots(event.FloorNV)
	if s := w.machine.clock.State(); s.Source != clock.SourceAttestd || s.Lower.After(built.Add(time.Hour)) {
		t.Errorf("clock %+v; want attestd's, which is right now", s)
	}
	if said := strings.Join(strings.Fields(w.out.String()), " "); !strings.Contains(said, "the clock (floor) was 89 days ahead of the signed time and was set back") &&
		!strings.Contains(said, "the clock (floor) was 90 days ahead") {
		t.Errorf("the console does not say that the clock was ahead: %s", said)
	}
}

// TestFloorWearsNothingOut boots a machine twice on one day, and on the next: the TPM's flash is written once a day,
// however often the machine boots.
func TestFloorWearsNothingOut(t *testing.T) {
	w := newWorld(t)
	tomorrow := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
	content := func(at time.Duration) string {
		t.Helper()
		w.ahead.Store(int64(time.Until(tomorrow.Add(at))))
		w.boots(event.FloorNV)
		b, err := w.tpm.Open(t).ReadNV(t.Context(), floor.Index)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := content(time.Hour)
	if content(20*time.Hour) != first {
		t.Error("the floor was written again on the same day")
	}
	if content(25*time.Hour) == first {
		t.Error("the time floor stands still")
	}
}

// TestFloorOptional boots an image without a version where the site config says
// so, but not on a machine that is known to have had a floor.
func TestFloorOptional(t *testing.T) {
	w := newWorld(t)
	w.undefine()
	oci := w.conf.Sources
	w.conf.Floor = config.FloorOptional
	w.boots(event.FloorAbsent)
	w.repo(1)
	w.refuses(floor.ErrMissing)

	w.conf.Sources = oci
	w.repairFloor(0)
	w.boots(event.FloorRepaired)
	w.undefine()
	w.reset()
	w.loaded = nil
	if outcome, err := w.boot(); outcome != flow.Reboot || !errors.Is(err, flow.ErrDenied) || !strings.Contains(err.Error(), "floor") {
		t.Errorf("boot without the floor that was there: %v, %v; want attestd's denial", outcome, err)
	}
}

// TestFloorFollowsHealth raises the image floor in the boot after the operating
// system has reported through attestd that it works, and not before.
func TestFloorFollowsHealth(t *testing.T) {
	w := newWorld(t)
	w.repo(1)
	for range 2 {
		w.boots(event.FloorNV)
		if v := w.floor().ImageVersion; v != 0 {
			t.Fatalf("the image floor is %d before anybody reported", v)
		}
	}
	w.reportHealth()
	w.boots(event.FloorNV)
	if v := w.floor().ImageVersion; v != 1 {
		t.Errorf("the image floor is %d after version 1 was reported healthy", v)
	}
	if got := w.floorRecord().Detail["image"]; got != "1" {
		t.Errorf("the record says image %q", got)
	}
}

// reportHealth is what the agent does in the operating system that was booted.
func (w *world) reportHealth() {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, content := range w.loaded.handover {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	h, err := agent.Open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	h.Uptime = func() time.Duration { return 0 } // that of the machine that tests is not the device's
	a := agent.Agent{
		Handover: h, Key: &agent.TPMKey{TPM: w.tpm.Open(w.t), Handover: h, Version: "test"},
		Healthy: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler),
	}
	if err := a.Once(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// TestFloorClamp shows how far one source may move a floor.
func TestFloorClamp(t *testing.T) {
	built := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	f := &nvFloor{clock: clock.New(clock.Options{Built: built})}
	for _, c := range []struct {
		name            string
		old, next, want time.Time
	}{
		{"nothing signed", built, time.Time{}, time.Time{}},
		{"a day", built.AddDate(0, 1, 0), built.AddDate(0, 1, 1), built.AddDate(0, 1, 1)},
		{"years", built.AddDate(0, 1, 0), built.AddDate(14, 0, 0), built.AddDate(0, 1, 0).Add(timeStep)},
		{"years, without a floor yet", time.Time{}, built.AddDate(14, 0, 0), built.Add(timeStep)},
	} {
		if got := f.clamp(c.old, c.next); !got.Equal(c.want) {
			t.Errorf("%s: %v; want %v", c.name, got, c.want)
		}
	}
}

// TestFloorOnDisk boots a machine without a TPM, whose floor is a file: it holds
// against an older repository, and the console says how weak it is.
func TestFloorOnDisk(t *testing.T) {
	w := newWorld(t)
	cache := t.TempDir()
	w.change = func(o *Options) { o.NoTPM, o.Cache = true, cache }
	r := w.repo(1)
	if outcome, err := w.boot(); outcome != flow.Reboot || err == nil || !strings.Contains(err.Error(), "require") {
		t.Fatalf("the site requires a floor in a TPM: %v, %v", outcome, err)
	}
	w.conf.Floor = config.FloorOptional
	old := [][]byte{r.Last("timestamp"), r.Last("snapshot"), r.Last("targets")}
	publish(t, r, 2)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v", outcome, err)
	}
	if flat := strings.Join(strings.Fields(w.out.String()), " "); !strings.Contains(flat, "no TPM: the rollback floor is a file") {
		t.Errorf("the console does not say that the floor is weak:\n%s", &w.out)
	}
	for i, role := range []string{"timestamp", "snapshot", "targets"} {
		r.Published[role] = append(r.Published[role], old[i])
		// What was verified before would refuse it too.
		if err := os.Remove(filepath.Join(cache, "tuf", role+".json")); err != nil {
			t.Fatal(err)
		}
	}
	if outcome, err := w.boot(); outcome != flow.Reboot || !errors.Is(err, tuf.ErrRollback) {
		t.Errorf("boot of the older repository: %v, %v", outcome, err)
	}
}
