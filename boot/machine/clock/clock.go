// Package clock answers what time it is on a machine whose real-time clock may
// be dead, wrong or set by a thief.
//
// It keeps a lower bound: a moment that has certainly passed. The bound starts
// at the higher of the build time and a real-time clock that looks sane, and
// moves forward to the time floor in the TPM and by times that verified metadata
// proves. TLS and TUF are given this clock; the system's own is never asked again
// after [New], so nothing else can step it.
//
// A bound alone stops most replays, but not a freeze: only a signed answer to
// this boot's nonce makes the clock trusted. It is not a bound but the time: it
// moves the clock back too, whatever had moved it ahead, though never before the
// build. A real-time clock, a floor or a signer of metadata that is years ahead
// would otherwise outlaw every certificate, and the machine for good. How much
// the signed time matters is the site's [Policy], and what the clock rests on is
// measured, so that the verifier sees it too.
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
	// Prefer goes on with a lower bound when no one signs the time; the
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
	// Horizon is how far after the build time any clock may go. Anyone who signs
	// times could otherwise brick a fleet with one answer from the year 9999.
	Horizon = 15 * 365 * 24 * time.Hour
)

// epoch stands in for an unknown build time: no loader is older.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// ErrHorizon is the error of a time that is further ahead than the clock may go.
var ErrHorizon = errors.New("time is too far ahead")

// ErrUntrusted is the error of policy "require" when no one has signed the time.
var ErrUntrusted = errors.New("no one trusted has signed the time")

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

// A Clock is a lower bound of the time, or the time itself once it was signed. It
// is safe for use by several goroutines.
type Clock struct {
	policy Policy
	most   time.Time // no time after this is believed
	ticks  func() time.Duration

	mu    sync.Mutex
	state State
	at    time.Duration // ticks when state.Lower was set
	rtc   string        // what became of the real-time clock
	ahead time.Duration // by how much the clock was ahead when signed time came
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
// ignored; so is every floor once the time was signed.
func (c *Clock) Floor(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) || c.state.Trusted {
		return
	}
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
// From then on the clock is trusted; floor and metadata no longer move it.
func (c *Clock) Signed(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) {
		return fmt.Errorf("clock: attestd says %s, after %s: %w; check attestd's clock, or build a newer loader",
			t.UTC().Format(time.RFC3339), c.most.Format(time.RFC3339), ErrHorizon)
	}
	source := SourceAttestd
	if built := c.Built(); t.Before(built) {
		t, source = built, SourceBuild
	}
	c.ahead = max(0, c.now().Sub(t))
	c.set(t, source)
	c.state.Trusted = true
	return nil
}

// Passed tells the clock a moment that verified metadata proves to have
// passed. It moves the clock forward but does not make it trusted: old metadata
// can be replayed, and new metadata is dated by anyone who has its keys.
func (c *Clock) Passed(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.most) {
		return fmt.Errorf("clock: metadata says %s, after %s: %w",
			t.UTC().Format(time.RFC3339), c.most.Format(time.RFC3339), ErrHorizon)
	}
	if t.After(c.now()) && !c.state.Trusted {
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

// Ahead returns by how much the clock was ahead of the signed time.
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
