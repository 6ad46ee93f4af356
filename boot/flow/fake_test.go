package flow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/measure/event"
)

var errInjected = errors.New("injected")

// A world is a machine and everything around it. It writes down what the flow
// does, one line a call, and makes calls fail as fault says.
type world struct {
	trace []string
	fault func(call string) error
	log   []string // events extended
}

// did notes a call and returns the fault injected into it.
func (w *world) did(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	var err error
	if w.fault != nil {
		err = w.fault(call)
	}
	if err != nil {
		call += " !"
	}
	w.trace = append(w.trace, call)
	return err
}

// boot wires a world up, with two sources and everything there is.
func (w *world) boot() *flow.Boot {
	return &flow.Boot{
		Host: func(context.Context) ([]byte, string, error) {
			return []byte("{}"), "here", w.did("read host")
		},
		Network:    network{w},
		Clock:      clock{w},
		Attester:   attester{w},
		Sources:    []flow.Source{source{w, "A", true}, source{w, "B", true}},
		Floor:      floor{w},
		Measurer:   measurer{w},
		Reporter:   reporter{w},
		SiteConfig: event.Record{Type: event.TypeSiteConfig},
		ReleaseKey: &event.Record{Type: event.TypeReleaseKey},
		Rounds:     2,
		Sleep: func(ctx context.Context, d time.Duration) error {
			_ = w.did("sleep")
			return ctx.Err()
		},
	}
}

type measurer struct{ w *world }

func (m measurer) Ready(context.Context) error { return m.w.did("ready") }
func (m measurer) Extend(_ context.Context, pcr int, r event.Record) error {
	line := strings.TrimSpace(fmt.Sprintf("extend %d %s %s", pcr, r.Type, r.Name))
	err := m.w.did("%s", line)
	if err == nil {
		m.w.log = append(m.w.log, line)
	}
	return err
}
func (m measurer) Abandon(_ context.Context, pcr int, r event.Record) error {
	return m.w.did("%s", strings.TrimSpace(fmt.Sprintf("extend %d %s %s", pcr, r.Type, r.Name)))
}
func (m measurer) Log() []byte { return []byte(strings.Join(m.w.log, "\n")) }
func (m measurer) LogWith(pcr int, r event.Record) ([]byte, error) {
	return []byte(strings.Join(append(slices.Clone(m.w.log), fmt.Sprintf("extend %d %s", pcr, r.Type)), "\n")), nil
}
func (m measurer) FirmwareLog(context.Context) ([]byte, error) {
	return []byte("fw"), m.w.did("firmware log")
}
func (m measurer) Flush(context.Context) error { return m.w.did("flush") }

type network struct{ w *world }

func (n network) Up(_ context.Context, host []byte) error { return n.w.did("up %s", host) }
func (n network) Down() error                             { return n.w.did("down") }

type clock struct{ w *world }

func (c clock) Signed(time.Time) error { return c.w.did("signed time") }
func (c clock) Check() error           { return c.w.did("check clock") }
func (c clock) Record() event.Record   { return event.Record{Type: event.TypeClock} }

type attester struct{ w *world }

func (a attester) Hello(context.Context) (*flow.Hello, error) {
	if err := a.w.did("hello"); err != nil {
		return nil, err
	}
	return &flow.Hello{Time: time.Unix(1e9, 0)}, nil
}
func (a attester) Attest(_ context.Context, log, fw []byte) (flow.Release, error) {
	if err := a.w.did("attest"); err != nil {
		return nil, err
	}
	return release(a), nil
}
func (a attester) Report(_ context.Context, s flow.Stage, reason string) error {
	return a.w.did("report %s", s)
}

type release struct{ w *world }

func (r release) Wipe() { _ = r.w.did("wipe") }

type floor struct{ w *world }

func (f floor) Check(_ context.Context, c *flow.Candidate, _ *flow.Hello) error {
	return f.w.did("floor check %s", c.Ref)
}
func (f floor) Raise(_ context.Context, c *flow.Candidate, _ *flow.Hello) (event.Record, error) {
	return event.Record{Type: event.TypeFloor}, f.w.did("floor raise %s", c.Ref)
}

type source struct {
	w    *world
	name string
	net  bool
}

func (s source) String() string     { return s.name }
func (s source) NeedsNetwork() bool { return s.net }
func (s source) Fetch(context.Context) (*flow.Candidate, error) {
	if err := s.w.did("fetch %s", s.name); err != nil {
		return nil, err
	}
	return &flow.Candidate{Image: image(s), Ref: s.name, Provenance: []event.Record{{Type: event.TypeProvenance, Name: s.name}}}, nil
}

type image source

func (i image) Records() ([]event.Record, error) {
	if err := i.w.did("records %s", i.name); err != nil {
		return nil, err
	}
	return []event.Record{{Type: event.TypeBootDescriptor, Name: i.name}, {Type: event.TypeArtifact, Name: i.name}}, nil
}
func (i image) Load(_ context.Context, h flow.Handover) error {
	lines := strings.Split(string(h.Log), "\n")
	return i.w.did("load %s, log of %d ends with %q", i.name, len(lines), lines[len(lines)-1])
}
func (i image) Close() error { return i.w.did("close %s", i.name) }

type reporter struct{ w *world }

func (r reporter) Stage(flow.Stage)               {}
func (r reporter) Info(string)                    {}
func (r reporter) Warn(error)                     { _ = r.w.did("warn") }
func (r reporter) Fail(f *flow.Failure, _ string) { _ = r.w.did("fail %s", f.Stage) }
func (r reporter) Waiting(d time.Duration, n int) { _ = r.w.did("wait for round %d", n) }
