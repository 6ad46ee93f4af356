package store

import (
	"errors"
	"testing"
)

// TestRemove forgets a device: its keys are free, and nothing that was decided for it before can be acknowledged, also
// once it is enrolled anew. The challenges that were answered stay answered, and the audit log keeps all.
func TestRemove(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s, ctx := f.open(t, "a"), t.Context()
		enrol(t, s, id("a"), id("b"))
		enrol(t, s, id("c"))
		if err := errors.Join(s.Decide(ctx, release("c0", "d0", id("a"))), s.Confirm(ctx, "d0", "mac-d0"),
			s.Decide(ctx, release("c1", "d1", id("a"))),
			s.Decide(ctx, Decision{Cookie: "c2", ID: "d2", Device: id("a"), Expires: start, Status: Status{Stage: "image"}})); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(ctx, id("a"), Event{Kind: "remove"}); !errors.Is(err, ErrEnrolled) {
			t.Errorf("an enrolled device: %v, want ErrEnrolled", err)
		}
		if err := s.Remove(ctx, id("d"), Event{Kind: "remove"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("an unknown device: %v, want ErrNotFound", err)
		}
		for _, st := range []State{Quarantined, Pending} {
			if err := errors.Join(s.SetState(ctx, id("a"), st, Event{Kind: "state"}), s.Remove(ctx, id("a"), Event{Kind: "remove", Actor: "test"})); err != nil {
				t.Fatal(err)
			}
			for _, ek := range []string{id("a"), id("b")} {
				if _, err := s.Device(ctx, ek); !errors.Is(err, ErrNotFound) {
					t.Errorf("the removed device by %.4s: %v, want ErrNotFound", ek, err)
				}
			}
			if v, err := s.Versions(ctx, id("a")); err != nil || len(v) != 0 {
				t.Errorf("its versions: %v, %v; want none", v, err)
			}
			if err := s.Decide(ctx, release("late", "late", id("a"))); !errors.Is(err, ErrNotEnrolled) {
				t.Errorf("a release that was on its way: %v, want ErrNotEnrolled", err)
			}
			for _, again := range []string{"d0", "d1"} {
				if err := s.Confirm(ctx, again, "mac-"+again); !errors.Is(err, ErrAck) {
					t.Errorf("acknowledgement of %s: %v, want ErrAck", again, err)
				}
			}
			enrol(t, s, id("a"), id("b"))
			if err := s.Confirm(ctx, "d1", "mac-d1"); !errors.Is(err, ErrAck) {
				t.Errorf("acknowledgement from before it was removed: %v, want ErrAck", err)
			}
			d, err := s.Device(ctx, id("a"))
			if err != nil || !d.MayFormat || d.AKName != "" || d.Confirmed.Decision != "" || d.Denied.Verdict != "" {
				t.Errorf("enrolled anew: %+v, %v; want nothing of before", d, err)
			}
			if err := s.Decide(ctx, release("c1", "d3", id("a"))); !errors.Is(err, ErrClaimed) {
				t.Errorf("a challenge of before: %v, want ErrClaimed", err)
			}
		}
		if _, err := s.Device(ctx, id("c")); err != nil {
			t.Errorf("the other device: %v", err)
		}
		removed := 0
		records, err := s.Audit(ctx, "a", 0, 100)
		for _, r := range records {
			if _, e, eerr := r.Event(); eerr == nil && e.Kind == "remove" && e.Device == id("a") && e.Actor == "test" {
				removed++
			}
		}
		if err != nil || removed != 2 {
			t.Errorf("%d records of the removals, %v; want 2", removed, err)
		}
	})
}
