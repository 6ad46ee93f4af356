package store

import (
	"testing"
	"time"
)

// TestDenialStays: reports and releases, which anyone can cause in a device's name, do not replace its last denial; another
// denial does, and a proven boot ends it.
func TestDenialStays(t *testing.T) {
	eachDatabase(t, func(t *testing.T, f *fixture) {
		s := f.open(t, "a")
		d := enrol(t, s, id("a"))
		attempt := func(verdict, reason string, at time.Duration) *Status {
			t.Helper()
			st := Status{Time: start.Add(at), Verdict: verdict, Reason: reason}
			if err := s.SetAttempt(t.Context(), d.ID, st); err != nil {
				t.Fatal(err)
			}
			got, err := s.Device(t.Context(), d.ID)
			if err != nil || got.Attempt != st {
				t.Fatalf("the last attempt is %+v, %v; want %+v", got.Attempt, err, st)
			}
			list, err := s.Devices(t.Context(), "", 10)
			if err != nil || len(list) != 1 || list[0].Denied != got.Denied {
				t.Fatalf("listed with %+v, %v", list, err)
			}
			return got.HiddenDenial()
		}
		if h := attempt("report", "no network", 0); h != nil {
			t.Errorf("never denied: %+v", h)
		}
		if h := attempt("deny", "image", 1*time.Minute); h != nil {
			t.Errorf("a denial hides itself: %+v", h)
		}
		if h := attempt("report", "all is well", 2*time.Minute); h == nil || h.Reason != "image" {
			t.Errorf("after a report: %+v", h)
		}
		if h := attempt("deny", "loader", 3*time.Minute); h != nil {
			t.Errorf("after another denial: %+v", h)
		}
		if h := attempt("allow", "", 4*time.Minute); h == nil || h.Reason != "loader" {
			t.Errorf("after a release: %+v", h)
		}
		got, err := s.Device(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		got.Confirmed.Time = start.Add(5 * time.Minute)
		if h := got.HiddenDenial(); h != nil {
			t.Errorf("after a proven boot: %+v", h)
		}
		if err := s.SetAttempt(t.Context(), id("b"), Status{Verdict: "deny"}); err != nil {
			t.Errorf("denial of a device that is not there: %v", err)
		}
	})
}
