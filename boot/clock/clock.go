// Package clock answers what time it is on a machine whose real-time clock may
// be dead, wrong or set by a thief.
//
// It keeps a lower bound: a moment that has certainly passed. The bound starts
// at the higher of the build time and a real-time clock that looks sane, and
// moves forward to the time floor in the TPM and by times that somebody trusted
// has signed. It moves back in one case only: a signed time corrects a real-time
// clock that was ahead. TLS and TUF are given this clock; the system's own is
// never asked again after [New], so nothing else can step it.
//
// A bound alone stops most replays, but not a freeze: only a signed answer to
// this boot's nonce makes the clock trusted. How much that matters is the
// site's [Policy], and what the clock rests on is measured, so that the
// verifier sees it too.
package clock

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/sealboot/sealboot/measure/event"
)

// Policy says how much a boot needs to know the time.
type Policy string

const (
	// Prefer goes on with a lower bound when nobody signs the time; the
	// weakness is measured. The default.
	Prefer Policy = "prefer"
	// Require refuses to boot without a time that was signed for this boot.
	Require Policy = "require"
	// Off checks no dates at all. For the lab.
	Off Policy = "off"
)

// Source says what the time rests on.
type Source string

const (
	SourceNone      Source = "none"      // nothing: the earliest time there is
	SourceBuild     Source = "build"     // when the loader was built
	SourceFloor     Source = "floor"     // the time floor in the TPM
	SourceRTC       Source = "rtc"       // the machine's real-time clock
	SourceMetadata  Source = "metadata"  // signed metadata, such as TUF's
	SourceNotBefore Source = "notbefore" // a certificate of the pinned site CA
	SourceAttestd   Source = "attestd"   // attestd's answer to this boot's nonce
)

const (
	// RTCSpan is how far after the build time a real-time clock is believed.
	RTCSpan = 10 * 365 * 24 * time.Hour
	// Horizon is how far after the build time any clock may go. Whoever signs
	// times could otherwise brick a fleet with one answer from the year 9999.
	Horizon = 15 * 365 * 24 * time.Hour
)

// epoch stands in for an unknown build time: no loader is older.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ErrHorizon is the error of a time that is further ahead than the clock may go.
var ErrHorizon = errors.New("time is too far ahead")

// ErrUntrusted is the error of policy "require" when nobody has signed the time.
var ErrUntrusted = errors.New("nobody trusted has signed the time")

// Options are what a clock starts from.
type Options struct {
	Policy Policy    // empty means Prefer
	Built  time.Time // when the loader was built; zero when unknown
	// Ticks is the time since some fixed moment and never goes back; nil
	// means since New was called.
	Ticks func() time.Duration
	// RTC is the machine's real-time clock when New is called; zero when it
	// has none.
	RTC time.Time
}

// A State is what a clock says and why.
type State struct {
	Lower   time.Time // this moment has passed
	Source  Source    // what Lower rests on
	Trusted bool      // signed for this very boot
}

// A Clock is a lower bound of the time that only moves forward. It is safe for
// use by several goroutines.
type Clock struct {
	policy Policy
	most   time.Time // no time after this is believed
	ticks  func() time.Duration

	mu    sync.Mutex
	state State
	at    time.Duration // ticks when state.Lower was set
	firm  time.Time     // the part of the bound that not even signed time lowers
	rtc   string        // what became of the real-time clock
	ahead time.Duration // by how much the real-time clock was ahead when signed time came
}

// New returns a clock that starts at the highest believable time of o.
func New(o Options) *Clock {
	c := &Clock{policy: o.Policy, ticks: o.Ticks, state: State{Lower: epoch, Source: SourceNone}}
	if c.policy == "" {
		c.policy = Prefer
	}
	if c.ticks == nil {
		start := time.Now()
		c.ticks = func() time.Duration { return time.Since(start) }
	}
	c.at = c.ticks()
	base := epoch
	if o.Built.After(base) {
		base = o.Built.UTC()
		c.state = State{Lower: base, Source: SourceBuild}
	}
	c.most = base.Add(Horizon)
	c.firm = c.state.Lower
	switch {
	case o.RTC.IsZero():
		c.rtc = "absent"
	case o.RTC.Before(c.state.Lower):
		c.rtc = "behind"
	case o.RTC.After(base.Add(RTCSpan)):
		c.rtc = "ahead"
	default:
		c.rtc = "sane"
		// Rounding drops the monotonic reading, which is not ours to keep.
		c.state = State{Lower: o.RTC.UTC().Round(0), Source: SourceRTC}
	}
	return c
}

// Floor tells the clock the time floor in the TPM. What is beyond the horizon
// was written by a thief, who could do so with a medium of his own, and is
// ignored.
func (c *Clock) Floor(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) {
		return
	}
	c.firm = later(c.firm, t.UTC().Round(0))
	if t.After(c.now()) {
		if c.state.Source == SourceRTC {
			c.rtc = "behind"
		}
		c.set(t, SourceFloor)
	}
}

// Now returns the time for checks of certificates and metadata.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time { return c.state.Lower.Add(max(0, c.ticks()-c.at)) }

// State returns what the clock rests on.
func (c *Clock) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Lower = c.now()
	return s
}

// Signed tells the clock the time that attestd signed for this boot's nonce.
// From then on the clock is trusted and the real-time clock is out: a signed
// time that is behind it moves the clock back, though never before the build
// time, the floor or what metadata proved.
func (c *Clock) Signed(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) {
		return fmt.Errorf("clock: attestd says %s, after %s: %w; check attestd's clock, or build a newer loader",
			t.UTC().Format(time.RFC3339), c.most.Format(time.RFC3339), ErrHorizon)
	}
	now := c.now()
	switch {
	case !t.Before(now):
		c.set(t, SourceAttestd)
	case c.state.Source == SourceRTC || c.state.Source == SourceNotBefore:
		c.ahead = now.Sub(t)
		c.set(later(t, c.firm), SourceAttestd)
	}
	c.state.Trusted = true
	return nil
}

// Passed tells the clock a moment that verified metadata proves to have
// passed. It moves the clock forward but does not make it trusted: old metadata
// can be replayed.
func (c *Clock) Passed(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) {
		return fmt.Errorf("clock: metadata says %s, after %s: %w",
			t.UTC().Format(time.RFC3339), c.most.Format(time.RFC3339), ErrHorizon)
	}
	c.firm = later(c.firm, t)
	if t.After(c.now()) {
		c.set(t, SourceMetadata)
	}
	return nil
}

func (c *Clock) set(t time.Time, s Source) {
	c.state.Lower, c.state.Source, c.at = t.UTC().Round(0), s, c.ticks()
}

// Check refuses to go on when the policy wants a trusted clock and this is none.
func (c *Clock) Check() error {
	if s := c.State(); c.policy == Require && !s.Trusted {
		return fmt.Errorf("clock: %w; it is %s by %q, and the site's policy is \"require\": see to it that attestd can be reached",
			ErrUntrusted, s.Lower.Format(time.RFC3339), s.Source)
	}
	return nil
}

// Built returns the build time that the clock started from, or what stands in
// for it.
func (c *Clock) Built() time.Time { return c.most.Add(-Horizon) }

// Policy returns the site's policy.
func (c *Clock) Policy() Policy { return c.policy }

// Ahead returns by how much the real-time clock was ahead of the signed time.
func (c *Clock) Ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

// Record is the event that tells the verifier what the clock rests on.
func (c *Clock) Record() event.Record {
	s := c.State()
	c.mu.Lock()
	defer c.mu.Unlock()
	return event.Record{Type: event.TypeClock, Name: string(s.Source), Detail: map[string]string{
		"lower":   s.Lower.Truncate(time.Second).Format(time.RFC3339),
		"policy":  string(c.policy),
		"rtc":     c.rtc,
		"trusted": strconv.FormatBool(s.Trusted),
	}}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
