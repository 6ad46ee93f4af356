package clock_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/machine/clock"
)

var (
	built = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	day   = 24 * time.Hour
	year  = 365 * day
)

// frozen is a clock whose time passes only when the test says so.
func frozen(o clock.Options) (*clock.Clock, *time.Duration) {
	passed := new(time.Duration)
	o.Ticks = func() time.Duration { return *passed }
	return clock.New(o), passed
}

func TestStart(t *testing.T) {
	at1970 := time.Unix(3, 0)
	for _, c := range []struct {
		name              string
		built, floor, rtc time.Time
		want              time.Time
		source            clock.Source
		rtcSays           string
	}{
		{"nothing known", time.Time{}, time.Time{}, time.Time{}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), clock.SourceNone, "absent"},
		{"RTC at 1970", built, time.Time{}, at1970, built, clock.SourceBuild, "behind"},
		{"RTC a day before the build", built, time.Time{}, built.Add(-day), built, clock.SourceBuild, "behind"},
		{"RTC sane", built, time.Time{}, built.Add(day), built.Add(day), clock.SourceRTC, "sane"},
		{"RTC at the edge", built, time.Time{}, built.Add(10 * year), built.Add(10 * year), clock.SourceRTC, "sane"},
		{"RTC 10 years ahead", built, time.Time{}, built.Add(10*year + 1), built, clock.SourceBuild, "ahead"},
		{"RTC at 9999", built, built.Add(day), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), built.Add(day), clock.SourceFloor, "ahead"},
		{"RTC stepped back below the floor", built, built.Add(30 * day), built.Add(29 * day), built.Add(30 * day), clock.SourceFloor, "behind"},
		{"floor before the build", built, built.Add(-day), time.Time{}, built, clock.SourceBuild, "absent"},
		{"floor beyond the horizon", built, built.Add(16 * year), time.Time{}, built, clock.SourceBuild, "absent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _ := frozen(clock.Options{Built: c.built, RTC: c.rtc})
			k.Floor(c.floor)
			want := clock.State{Lower: c.want, Source: c.source}
			if d := cmp.Diff(want, k.State()); d != "" {
				t.Errorf("State (-want +got):\n%s", d)
			}
			if got := k.Record().Detail["rtc"]; got != c.rtcSays {
				t.Errorf("rtc = %q; want %q", got, c.rtcSays)
			}
		})
	}
}

func TestTimePasses(t *testing.T) {
	k, passed := frozen(clock.Options{Built: built})
	*passed = time.Hour
	if got := k.Now(); !got.Equal(built.Add(time.Hour)) {
		t.Errorf("Now = %v; want an hour after the build", got)
	}
	*passed = -time.Hour // a broken monotonic clock must not lower the bound
	if got := k.Now(); got.Before(built) {
		t.Errorf("Now = %v, before the build", got)
	}
}

func TestSigned(t *testing.T) {
	for _, c := range []struct {
		name       string
		rtc, floor time.Time
		metadata   time.Time
		signed     time.Time
		want       time.Time
		source     clock.Source
		ahead      time.Duration
		err        error
	}{
		{name: "forward", signed: built.Add(day), want: built.Add(day), source: clock.SourceAttestd},
		{name: "behind the build", signed: built.Add(-day), want: built, source: clock.SourceBuild},
		{name: "year 9999", signed: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), want: built, source: clock.SourceBuild, err: clock.ErrHorizon},
		{name: "corrects an RTC ahead", rtc: built.Add(9 * year), signed: built.Add(day), want: built.Add(day), source: clock.SourceAttestd, ahead: 9*year - day},
		{name: "corrects a floor ahead", floor: built.Add(90 * day), signed: built.Add(day), want: built.Add(day), source: clock.SourceAttestd, ahead: 89 * day},
		{name: "corrects metadata ahead", metadata: built.Add(3 * year), signed: built.Add(day), want: built.Add(day), source: clock.SourceAttestd, ahead: 3*year - day},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _ := frozen(clock.Options{Built: built, RTC: c.rtc, Policy: clock.Require})
			k.Floor(c.floor)
			if err := k.Check(); !errors.Is(err, clock.ErrUntrusted) {
				t.Errorf("Check before = %v; want ErrUntrusted", err)
			}
			if !c.metadata.IsZero() {
				if err := k.Passed(c.metadata); err != nil {
					t.Fatal(err)
				}
			}
			err := k.Signed(c.signed)
			if !errors.Is(err, c.err) {
				t.Fatalf("Signed = %v; want %v", err, c.err)
			}
			want := clock.State{Lower: c.want, Source: c.source, Trusted: c.err == nil}
			if d := cmp.Diff(want, k.State()); d != "" {
				t.Errorf("State (-want +got):\n%s", d)
			}
			if (k.Check() == nil) != (c.err == nil) {
				t.Errorf("Check after = %v", k.Check())
			}
			if got := k.Ahead(); got != c.ahead {
				t.Errorf("Ahead = %v; want %v", got, c.ahead)
			}
			// Nothing moves a signed time any more.
			lower := k.Now()
			k.Floor(built.Add(year))
			if err := k.Passed(built.Add(year)); err != nil {
				t.Error(err)
			}
			if c.err == nil && !k.Now().Equal(lower) {
				t.Errorf("Now = %v after floor and metadata; want %v as signed", k.Now(), lower)
			}
		})
	}
}

func TestPassed(t *testing.T) {
	k, _ := frozen(clock.Options{Built: built, RTC: built.Add(day)})
	if err := k.Passed(built.Add(16 * year)); !errors.Is(err, clock.ErrHorizon) {
		t.Errorf("Passed far ahead = %v; want ErrHorizon", err)
	}
	if err := k.Passed(built); err != nil {
		t.Error(err)
	}
	if s := k.State(); s.Source != clock.SourceRTC {
		t.Errorf("old metadata moved the clock: %+v", s)
	}
	if err := k.Passed(built.Add(2 * day)); err != nil {
		t.Error(err)
	}
	if s := k.State(); s.Source != clock.SourceMetadata || s.Trusted || !s.Lower.Equal(built.Add(2*day)) {
		t.Errorf("State = %+v", s)
	}
}

func TestRecord(t *testing.T) {
	k, _ := frozen(clock.Options{Built: built})
	got, err := k.Record().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"clock","name":"build","detail":{"lower":"2026-11-01T12:00:00Z","policy":"prefer","rtc":"absent","trusted":"false"}}`
	if string(got) != want {
		t.Errorf("record\n got %s\nwant %s", got, want)
	}
}
