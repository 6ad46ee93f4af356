package tuf_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
	"github.com/sealboot/sealboot/measure/event"
)

// boot refreshes from an empty cache, as after a theft of the disk, and raises
// the floor.
func (d *device) boot() error {
	d.t.Helper()
	d.cfg.Store = &store.Memory{}
	c := d.client()
	if err := c.Refresh(d.t.Context()); err != nil {
		return err
	}
	s, err := c.State()
	want(d.t, err, nil)
	return d.cfg.Floor.Raise(d.t.Context(), s)
}

func newFloor(t *testing.T) tuf.Floor {
	s, release, err := store.Open(t.TempDir())
	want(t, err, nil)
	t.Cleanup(func() { _ = release() })
	return s.Floor()
}

func TestFloorOutlivesTheCache(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", "root"} {
		d := newDevice(t)
		d.cfg.Floor = newFloor(t)
		old := map[string][][]byte{}
		for r, p := range d.repo.Published {
			old[r] = p
		}
		d.repo.Publish("root", "targets", "snapshot", "timestamp")
		for range 2 { // what is exactly as high as the floor is high enough
			want(t, d.boot(), nil)
		}
		switch role { // what a mirror plays back
		case "timestamp":
			d.repo.Published["timestamp"] = old["timestamp"]
		case "root":
			d.repo.Published["root"] = old["root"]
		}
		d.startAgain(role)
		want(t, d.boot(), tuf.ErrRollback)
		if _, err := d.cfg.Store.Load(role); err == nil && role != "root" {
			t.Errorf("a %s below the floor was stored", role)
		}
	}
}

// startAgain republishes a role as version 1.
func (d *device) startAgain(role string) {
	switch role {
	case "snapshot":
		d.repo.Snapshot.Signed.Version, d.repo.Published["snapshot"] = 1, nil
		d.repo.Publish("snapshot", "timestamp")
	case "targets":
		d.repo.Targets().Version, d.repo.Published["targets"] = 1, nil
		d.repo.Publish("targets", "snapshot", "timestamp")
	}
}

// TestFastForwardRecovery: a thief signs huge versions; the owner rotates the
// keys and starts again. The floor must let him.
func TestFastForwardRecovery(t *testing.T) {
	d := newDevice(t)
	d.cfg.Floor = newFloor(t)
	d.repo.Timestamp.Signed.Version = 1 << 31
	d.repo.Publish("timestamp")
	want(t, d.boot(), nil)
	d.repo.Timestamp.Signed.Version = 4
	d.repo.Publish("timestamp")
	want(t, d.boot(), tuf.ErrRollback)
	d.repo.RotateKeys("timestamp")
	d.repo.Timestamp.Signed.Version = 4
	d.repo.Publish("root", "timestamp")
	want(t, d.boot(), nil)
	d.repo.Timestamp.Signed.Version = 2
	d.repo.Publish("timestamp") // version 3 of the new key
	want(t, d.boot(), tuf.ErrRollback)
}

// TestRootIsWhatWasSigned: somebody on the way changes a root's bytes and not its
// meaning. The floor must not take the honest one for another root afterwards.
func TestRootIsWhatWasSigned(t *testing.T) {
	d := newDevice(t)
	d.cfg.Floor = newFloor(t)
	d.repo.AddKey("root", tuftest.NewKey(t)) // a signature more than the threshold
	d.repo.Publish("root")
	honest := d.repo.Last("root")
	for name, changed := range map[string][]byte{
		"a space":          append(bytes.Clone(honest), ' '),
		"a signature less": edit(t, honest, func(md map[string]any) { md["signatures"] = md["signatures"].([]any)[:1] }),
		"a member more":    edit(t, honest, func(md map[string]any) { md["x"] = 1 }),
	} {
		d.repo.Published["root"][1] = changed
		want(t, d.boot(), nil)
		d.repo.Published["root"][1] = honest
		if err := d.boot(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	d.repo.Root.Signed.UnrecognizedFields = map[string]any{"x": 1}
	d.repo.Root.Signed.Version, d.repo.Published["root"] = 1, d.repo.Published["root"][:1]
	d.repo.Publish("root") // another version 2, as well signed
	want(t, d.boot(), tuf.ErrRollback)
}

func TestTargetsRecoverByTheSnapshotKey(t *testing.T) {
	d := newDevice(t)
	d.cfg.Floor = newFloor(t)
	for range 5 {
		d.repo.Publish("targets")
	}
	d.repo.Publish("snapshot", "timestamp")
	want(t, d.boot(), nil)
	d.startAgain("targets")
	want(t, d.boot(), tuf.ErrRollback)
	d.repo.RotateKeys("snapshot")
	d.repo.Publish("root", "snapshot", "timestamp")
	want(t, d.boot(), nil)
}

func TestProvenance(t *testing.T) {
	d := newDevice(t)
	d.repo.AddArtifact("targets", "os", []byte("x"))
	d.repo.Publish("targets", "snapshot", "timestamp", "timestamp")
	c := d.client()
	if _, err := c.Provenance(&tuf.Target{}); err == nil {
		t.Fatal("provenance before a refresh")
	}
	want(t, c.Refresh(t.Context()), nil)
	target, err := c.Find(t.Context(), "os")
	want(t, err, nil)
	got, err := c.Provenance(target)
	want(t, err, nil)
	s, err := c.State()
	want(t, err, nil)
	target.Name = strings.Repeat("x", 5000)
	if r, err := c.Provenance(target); err == nil {
		t.Errorf("a record with a name of 5000 bytes: %v", r)
	}
	if diff := cmp.Diff(event.Record{
		Type: event.TypeProvenance, Name: "tuf", SHA256: fmt.Sprintf("%x", s.RootSHA256),
		Detail: map[string]string{
			"root": "1", "timestamp": "3", "snapshot": "2", "targets": "2",
			"target": "os", "role": "targets", "roleVersion": "2",
		},
	}, got); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
}

// TestClocks: what a device with a dead or a lying clock does. The metadata
// expires 30 days after the build.
func TestClocks(t *testing.T) {
	for name, tc := range map[string]struct {
		now func(expiry time.Time) time.Time
		err error
	}{
		// Nothing has expired in 1970; the floor is what protects.
		"1970":              {func(time.Time) time.Time { return time.Unix(0, 0) }, nil},
		"build - 1 day":     {func(e time.Time) time.Time { return e.AddDate(0, 0, -31) }, nil},
		"before the expiry": {func(e time.Time) time.Time { return e.Add(-time.Nanosecond) }, nil},
		"at the expiry":     {func(e time.Time) time.Time { return e }, tuf.ErrExpired},
		"build + 10 y":      {func(e time.Time) time.Time { return e.AddDate(10, 0, -30) }, tuf.ErrExpired},
		"year 9999":         {func(time.Time) time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }, tuf.ErrExpired},
		"year 100000":       {func(time.Time) time.Time { return time.Date(100000, 1, 1, 0, 0, 0, 0, time.UTC) }, tuf.ErrExpired},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.cfg.Now = tc.now(d.repo.Expiry)
			want(t, d.refresh(), tc.err)
		})
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} { // the only one that has expired
		d := newDevice(t)
		past := d.repo.Expiry.AddDate(-1, 0, 0)
		switch role {
		case "root":
			d.repo.Root.Signed.Expires = past
		case "timestamp":
			d.repo.Timestamp.Signed.Expires = past
		case "snapshot":
			d.repo.Snapshot.Signed.Expires = past
		case "targets":
			d.repo.Targets().Expires = past
		}
		d.repo.Publish("root", "targets", "snapshot", "timestamp")
		if err := d.refresh(); !errors.Is(err, tuf.ErrExpired) || !strings.HasPrefix(err.Error(), "tuf: "+role+": ") {
			t.Errorf("%s: %v", role, err)
		}
	}
	d := newDevice(t)
	want(t, d.refresh(), nil)
	d.cfg.Now = d.cfg.Now.AddDate(-1, 0, 0) // stepped back between two boots
	want(t, d.refresh(), nil)
	d.cfg.Now = time.Time{}
	if _, err := tuf.New(d.cfg); err == nil {
		t.Fatal("a client without the time")
	}
}

func TestSignedTime(t *testing.T) {
	d := newDevice(t)
	set := func(fields map[string]any) {
		d.repo.Timestamp.Signed.UnrecognizedFields = fields
		d.repo.Publish("timestamp")
	}
	expires := d.repo.Expiry
	for _, tc := range []struct {
		fields map[string]any
		want   time.Time
	}{
		{nil, time.Time{}},
		{map[string]any{tuf.LifetimeField: 48}, expires.AddDate(0, 0, -2)},
		{map[string]any{"x-tuf-on-ci-expiry-period": 3}, expires.AddDate(0, 0, -3)},
		{map[string]any{tuf.LifetimeField: 24 * 365 * 10}, expires.AddDate(0, 0, -365*10)},
		{map[string]any{tuf.LifetimeField: 24*365*10 + 1}, time.Time{}},
		{map[string]any{tuf.LifetimeField: 0}, time.Time{}},
		{map[string]any{tuf.LifetimeField: -5}, time.Time{}},
		{map[string]any{tuf.LifetimeField: "48"}, time.Time{}},
		{map[string]any{tuf.LifetimeField: 1 << 40}, time.Time{}},
	} {
		set(tc.fields)
		c := d.client()
		want(t, c.Refresh(t.Context()), nil)
		if got := c.SignedTime(); !got.Equal(tc.want) {
			t.Errorf("%v: signed at %s, want %s", tc.fields, got, tc.want)
		}
	}
}
