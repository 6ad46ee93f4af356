package store

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestOrdersOutliveEarlierBoots: an operator orders something while a release is on its way, or while the machine that
// asked for it boots. The acknowledgement of that boot, in time or held back, ends neither order: it knew of none.
func TestOrdersOutliveEarlierBoots(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		if err := errors.Join(s.Decide(ctx, release("c0", "d0", id("a"))), s.Confirm(ctx, "d0", "mac-d0")); err != nil {
			t.Fatal(err)
		}
		late := release("c1", "d1", id("a"))
		late.Expires = late.Expires.Add(time.Minute)
		if err := s.Decide(ctx, late); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.AllowFormat(ctx, id("a"), Event{}), s.RepairFloor(ctx, id("a"), 3, Event{})); err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx, "d1", "mac-d1"); err != nil {
			t.Fatal(err)
		}
		if d, err := s.Device(ctx, id("a")); err != nil || !d.MayFormat || d.RepairFloor == nil || d.Confirmed.Decision != "d1" {
			t.Errorf("after the acknowledgement of a boot that knew of no order: %+v, %v; want both orders to stand", d, err)
		}
		// The order to format came first, and so it has the lower number.
		for i, c := range []struct {
			heard, released int64
			format, repair  bool // still in force
		}{{0, 0, true, true}, {1, 0, true, true}, {0, 2, false, true}, {1, 2, false, true}, {2, 2, false, false}} {
			next := release(fmt.Sprint("next c", i), fmt.Sprint("next ", i), id("a"))
			next.Expires = late.Expires.Add(time.Duration(i+1) * time.Minute)
			next.Effects.Heard, next.Effects.Released = c.heard, c.released
			if err := errors.Join(s.Decide(ctx, next), s.Confirm(ctx, next.ID, "mac-"+next.ID)); err != nil {
				t.Fatal(err)
			}
			if d, err := s.Device(ctx, id("a")); err != nil || d.MayFormat != c.format || (d.RepairFloor != nil) != c.repair {
				t.Errorf("after %+v: %+v, %v", c, d, err)
			}
		}
	})
}

// TestUpgrade opens a database of the first schema, with an order in force, which ends with the next boot as it did then.
func TestUpgrade(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"))
		if err := s.RepairFloor(ctx, id("a"), 3, Event{}); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{
			"ALTER TABLE devices DROP COLUMN orders", "ALTER TABLE devices DROP COLUMN format_order",
			"ALTER TABLE devices DROP COLUMN repair_order", "DROP TABLE denials", "UPDATE counters SET value = 1 WHERE name = 'schema'",
		} {
			if _, err := s.db.ExecContext(ctx, q); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			s = f.open(t, "b")
		}
		if d, err := s.Device(ctx, id("a")); err != nil || d.RepairFloor == nil || d.Orders != 0 {
			t.Errorf("after the upgrade: %+v, %v", d, err)
		}
		if err := errors.Join(s.Decide(ctx, release("c1", "d1", id("a"))), s.Confirm(ctx, "d1", "mac-d1")); err != nil {
			t.Fatal(err)
		}
		if d, err := s.Device(ctx, id("a")); err != nil || d.RepairFloor != nil || d.MayFormat {
			t.Errorf("after the next boot: %+v, %v", d, err)
		}
	})
}
