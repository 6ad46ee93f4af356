package flow_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/boot/flow"
)

// TestWholeBoot pins the order of everything in a boot in which nothing fails.
func TestWholeBoot(t *testing.T) {
	w := new(world)
	outcome, err := w.boot().Run(t.Context())
	if outcome != flow.Kexec || err != nil {
		t.Fatalf("Run = %v, %v", outcome, err)
	}
	want := []string{
		"ready", "read host", "extend 13 host-config", "up {}",
		"hello", "signed time", "check clock",
		"fetch A", "records A", "floor check A", "floor raise A",
		"records A",
		"extend 12 boot-descriptor A", "extend 12 artifact A",
		"extend 13 site-config", "extend 13 provenance A", "extend 13 release-key", "extend 13 clock", "extend 13 floor",
		"firmware log", "attest",
		`load A, log of 9 ends with "extend 12 cap"`,
		"wipe", "extend 12 cap", "flush", "down",
		"wipe", "close A", // again, by the defers that cover the failures
	}
	if d := cmp.Diff(want, w.trace); d != "" {
		t.Errorf("order of the boot (-want +got):\n%s", d)
	}
}

// failing makes every call fail whose line starts with one of the prefixes; a
// prefix "n*PREFIX" only the first n times.
func failing(prefixes ...string) func(string) error {
	count := make(map[string]int)
	return func(call string) error {
		for _, p := range prefixes {
			most := 1 << 30
			if n, rest, ok := strings.Cut(p, "*"); ok {
				_, _ = fmt.Sscan(n, &most)
				p = rest
			}
			if strings.HasPrefix(call, p) && count[p] < most {
				count[p]++
				if strings.Contains(p, "attest") && most == 99 {
					return fmt.Errorf("%w: PCR 12", flow.ErrDenied)
				}
				return errInjected
			}
		}
		return nil
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name    string
		fail    []string
		edit    func(w *world, b *flow.Boot)
		outcome flow.Outcome
		stage   flow.Stage // of the error; empty for none
		want    []string   // lines that must be there, in this order
		not     []string   // prefixes that must not be there
	}{
		{name: "a TPM that comes late", fail: []string{"1*ready"}, outcome: flow.Kexec,
			want: []string{"ready !", "fail prepare", "wait for round 2", "ready", "up"}},
		{name: "no TPM", fail: []string{"ready"}, stage: flow.StagePrepare,
			want: []string{"fail prepare", "fail prepare"}, not: []string{"up", "fetch", "extend"}},
		{name: "host config cannot be read", fail: []string{"read host"}, stage: flow.StagePrepare, not: []string{"up", "fetch"}},
		{name: "host config cannot be measured", fail: []string{"extend 13 host-config"}, stage: flow.StagePrepare, not: []string{"up", "fetch"}},
		{name: "network comes in the second round", fail: []string{"1*up"}, outcome: flow.Kexec,
			want: []string{"up {} !", "fail network", "wait for round 2", "up {}", "fetch A"}},
		{name: "no network", fail: []string{"up"}, stage: flow.StageNetwork, not: []string{"hello", "fetch", "report"}},
		{name: "no network and media, but attestd is needed", fail: []string{"up"}, stage: flow.StageNetwork, not: []string{"fetch"},
			edit: func(w *world, b *flow.Boot) { b.Sources = append(b.Sources, source{w, "USB", false}) }},
		{name: "no network, no attestd: media", fail: []string{"up"}, outcome: flow.Kexec,
			want: []string{"fail network", "fetch USB"}, not: []string{"fetch A", "attest"},
			edit: func(w *world, b *flow.Boot) {
				b.Attester = nil
				b.Sources = append(b.Sources, source{w, "USB", false})
			}},
		{name: "no attestd at hello", fail: []string{"1*hello"}, outcome: flow.Kexec, want: []string{"hello !", "warn", "check clock", "fetch A"}},
		{name: "hello from the year 9999", fail: []string{"1*signed time"}, outcome: flow.Kexec, want: []string{"signed time !", "warn", "fetch A"}},
		{name: "a clock is required", fail: []string{"hello", "check clock"}, stage: flow.StageHello, not: []string{"fetch"}},
		{name: "first source broken", fail: []string{"fetch A"}, outcome: flow.Kexec,
			want: []string{"fetch A !", "fail fetch", "report fetch", "fetch B", "extend 12 boot-descriptor B"}, not: []string{"sleep"}},
		{name: "an image that cannot be measured", fail: []string{"records A"}, outcome: flow.Kexec,
			want: []string{"records A !", "close A", "fetch B"}, not: []string{"floor raise A"}},
		{name: "first source below the floor", fail: []string{"floor check A"}, outcome: flow.Kexec,
			want: []string{"floor check A !", "close A", "fail floor", "fetch B", "floor raise B"}},
		{name: "floor cannot be raised", fail: []string{"floor raise"}, stage: flow.StageFloor, not: []string{"extend 12", "attest"}},
		{name: "every source broken", fail: []string{"fetch"}, stage: flow.StageFetch,
			want: []string{"fetch A !", "fetch B !", "sleep", "fetch A !", "fetch B !"}, not: []string{"extend 12", "wait for round 3"}},
		{name: "every source broken: poweroff", fail: []string{"fetch"}, stage: flow.StageFetch, outcome: flow.Poweroff,
			edit: func(_ *world, b *flow.Boot) { b.End = flow.EndPoweroff }},
		{name: "every source broken: shell", fail: []string{"fetch"}, stage: flow.StageFetch, outcome: flow.Shell,
			want: []string{"extend 12 shell"}, edit: func(_ *world, b *flow.Boot) { b.End = flow.EndShell }},
		{name: "no shell without its marker", fail: []string{"fetch", "extend 12 shell"}, stage: flow.StageFetch, outcome: flow.Reboot,
			edit: func(_ *world, b *flow.Boot) { b.End = flow.EndShell }},
		{name: "every source broken for a while: retry", fail: []string{"20*fetch"}, outcome: flow.Kexec,
			want: []string{"wait for round 11"}, edit: func(_ *world, b *flow.Boot) { b.End = flow.EndRetry }},
		{name: "image not measured", fail: []string{"extend 12 artifact"}, stage: flow.StageMeasure,
			want: []string{"extend 12 boot-descriptor A", "extend 12 artifact A !", "fail measure", "extend 12 failed measure"}, not: []string{"attest", "load", "fetch B"}},
		{name: "not even its first event", fail: []string{"extend 12 boot-descriptor"}, stage: flow.StageMeasure,
			want: []string{"extend 12 failed measure"}, not: []string{"attest", "load", "fetch B"}},
		{name: "authority not measured", fail: []string{"extend 13 clock"}, stage: flow.StageMeasure, want: []string{"extend 12 failed measure"}, not: []string{"attest", "fetch B"}},
		{name: "no firmware log", fail: []string{"firmware log"}, stage: flow.StageMeasure, want: []string{"extend 12 failed measure"}, not: []string{"attest"}},
		{name: "attestd stumbles", fail: []string{"3*attest"}, outcome: flow.Kexec,
			want: []string{"attest !", "sleep", "attest !", "sleep", "attest !", "sleep", "attest", "load A"}, not: []string{"fetch B", "extend 12 failed"}},
		{name: "attestd gone", fail: []string{"attest"}, stage: flow.StageAttest,
			want: []string{"attest !", "fail attest", "report attest", "extend 12 failed attest"}, not: []string{"load", "fetch B"}},
		{name: "attestd gone, and the site asks twice", fail: []string{"3*attest"}, stage: flow.StageAttest,
			want: []string{"attest !", "sleep", "attest !", "fail attest"}, not: []string{"load"},
			edit: func(_ *world, b *flow.Boot) { b.Attempts = 2 }},
		{name: "denied", fail: []string{"99*attest"}, stage: flow.StageAttest,
			want: []string{"attest !", "fail attest", "extend 12 failed attest"}, not: []string{"sleep", "load", "fetch B"}},
		{name: "kexec_file_load fails after the release", fail: []string{"load"}, stage: flow.StageLoad,
			want: []string{"attest", "load", "fail load", "extend 12 failed load", "wipe"}, not: []string{"extend 12 cap", "fetch B"}},
		{name: "no cap", fail: []string{"extend 12 cap"}, stage: flow.StageKexec, want: []string{"wipe", "extend 12 cap !", "extend 12 failed kexec"}},
		{name: "TPM not flushed", fail: []string{"flush"}, stage: flow.StageKexec, want: []string{"extend 12 cap", "flush !", "extend 12 failed kexec"}},
		{name: "links stay up", fail: []string{"down"}, stage: flow.StageKexec, want: []string{"extend 12 cap", "down !"}},
		{name: "never a shell after an image", fail: []string{"attest"}, stage: flow.StageAttest, outcome: flow.Reboot,
			edit: func(_ *world, b *flow.Boot) { b.End = flow.EndShell }, not: []string{"extend 12 shell"}},
		{name: "no floor, no host config, no release key", outcome: flow.Kexec, not: []string{"floor", "extend 13 host-config", "extend 13 release-key"},
			edit: func(_ *world, b *flow.Boot) { b.Floor, b.Host, b.ReleaseKey = nil, nil, nil }},
		{name: "other PCRs", outcome: flow.Kexec, want: []string{"extend 14 boot-descriptor A", "extend 8 site-config", "extend 14 cap"}, not: []string{"extend 12", "extend 13"},
			edit: func(_ *world, b *flow.Boot) { b.PCRImage, b.PCRAuthority = 14, 8 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{fault: failing(c.fail...)}
			b := w.boot()
			if c.edit != nil {
				c.edit(w, b)
			}
			outcome, err := b.Run(t.Context())
			trace := strings.Join(w.trace, "\n")
			if outcome != c.outcome {
				t.Errorf("outcome %v; want %v\n%s", outcome, c.outcome, trace)
			}
			if (err != nil) != (c.stage != "") || err != nil && !stages(err)[c.stage] {
				t.Errorf("error %v; want one of the stage %q\n%s", err, c.stage, trace)
			}
			rest := w.trace
			for _, line := range c.want {
				i := slices.IndexFunc(rest, func(s string) bool { return strings.HasPrefix(s, line) })
				if i < 0 {
					t.Fatalf("no %q, or not in its place:\n%s", line, trace)
				}
				rest = rest[i+1:]
			}
			for _, prefix := range c.not {
				if slices.ContainsFunc(w.trace, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
					t.Errorf("found %q:\n%s", prefix, trace)
				}
			}
			if err := lawful(w.trace, outcome, b); err != nil {
				t.Errorf("%v\n%s", err, trace)
			}
		})
	}
}

// stages are all stages that are named in err.
func stages(err error) map[flow.Stage]bool {
	found := make(map[flow.Stage]bool)
	var walk func(error)
	walk = func(err error) {
		if f, ok := err.(*flow.Failure); ok {
			found[f.Stage] = true
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	if err != nil {
		walk(err)
	}
	return found
}

// lawful checks what must be true of every boot, whatever failed in it.
func lawful(trace []string, outcome flow.Outcome, b *flow.Boot) error {
	at := func(prefix string) int {
		return slices.IndexFunc(trace, func(s string) bool { return strings.HasPrefix(s, prefix) })
	}
	last := func(prefix string) int {
		for i, s := range slices.Backward(trace) {
			if strings.HasPrefix(s, prefix) {
				return i
			}
		}
		return -1
	}
	image := func(what string) string { return fmt.Sprintf("extend %d %s", b.PCRImage, what) }
	released := slices.Index(trace, "attest") // without " !": it succeeded
	measured := at(image("boot-descriptor"))

	var broken []error
	law := func(ok bool, text string) {
		if !ok {
			broken = append(broken, errors.New("broken law: "+text))
		}
	}
	if measured >= 0 {
		law(last("fetch") < measured, "nothing is fetched after the image was measured")
		law(last("floor") < measured, "the floor is not touched after the image was measured")
		law(at(image("shell")) < 0, "no shell after the image was measured")
		law(outcome == flow.Kexec || outcome == flow.Reboot && at(image("failed")) > measured, "kexec, or failed and reset, after the image was measured")
		law(count(trace, image("boot-descriptor")) == 1, "one image and no other is measured")
	}
	if first := at("attest"); first >= 0 {
		law(measured >= 0 && measured < first, "nothing is attested before it was measured")
		for _, end := range []string{"cap", "failed", "shell"} {
			law(at(image(end)) < 0 || last("attest") < at(image(end)), "nothing is attested after "+end)
		}
		law(last(fmt.Sprintf("extend %d", b.PCRAuthority)) < first, "the authority is complete before the quote")
	}
	if released >= 0 {
		law(last("wipe") > released, "a release is wiped")
		law(outcome == flow.Kexec || outcome == flow.Reboot, "kexec or reset after a release")
		law(last("attest") == released, "there is one release")
	}
	if up := at("up"); up >= 0 && at("read host") >= 0 {
		law(at(fmt.Sprintf("extend %d host-config", b.PCRAuthority)) < up, "the host config is measured before it is used")
	}
	if outcome == flow.Kexec {
		load, capped, flush, down := at("load"), at(image("cap")), at("flush"), at("down")
		law(load >= 0 && load < capped && capped < flush && flush < down, "load, cap, flush, down")
		law(released < 0 || at("wipe") > load && at("wipe") < capped, "wiped between load and cap")
		law(at(image("failed")) < 0, "no kexec after failed")
	}
	if outcome == flow.Shell {
		law(at(image("shell")) >= 0 && !slices.Contains(trace, image("shell")+" !"), "a shell only after its marker")
	}
	return errors.Join(broken...)
}

func count(trace []string, prefix string) int {
	n := 0
	for _, s := range trace {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

// TestLaws boots many times with faults in random places.
func TestLaws(t *testing.T) {
	ends := []flow.End{flow.EndReboot, flow.EndPoweroff, flow.EndShell, flow.EndRetry}
	outcomes := make(map[flow.Outcome]int)
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rate := r.Float64() * 0.5
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		w := &world{fault: func(call string) error {
			if calls++; calls > 300 {
				cancel() // "retry" would go on for ever
			}
			if strings.HasPrefix(call, "wipe") || r.Float64() > rate {
				return nil
			}
			if call == "attest" && r.IntN(2) == 0 {
				return flow.ErrDenied
			}
			return errInjected
		}}
		b := w.boot()
		b.End = ends[r.IntN(len(ends))]
		if r.IntN(4) == 0 {
			b.Attester, b.ReleaseKey = nil, nil
		}
		if r.IntN(4) == 0 {
			b.Sources = append(b.Sources, source{w, "USB", false})
		}
		outcome, err := b.Run(ctx)
		cancel()
		outcomes[outcome]++
		if (outcome == flow.Kexec) != (err == nil) {
			t.Fatalf("seed %d: %v, %v", seed, outcome, err)
		}
		if err := lawful(w.trace, outcome, b); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.trace, "\n"))
		}
	}
	for _, o := range []flow.Outcome{flow.Kexec, flow.Reboot, flow.Poweroff, flow.Shell} {
		if outcomes[o] == 0 {
			t.Errorf("no boot ended in %v: the faults are too many or too few", o)
		}
	}
}

// TestPanickingSource has the first source make a parser panic.
func TestPanickingSource(t *testing.T) {
	w := &world{}
	w.fault = func(call string) error {
		if call == "fetch A" {
			panic("index out of range")
		}
		return nil
	}
	if outcome, err := w.boot().Run(t.Context()); outcome != flow.Kexec || err != nil {
		t.Errorf("Run = %v, %v", outcome, err)
	}
	if !slices.Contains(w.trace, "extend 12 boot-descriptor B") {
		t.Error("the next source was not booted")
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{}
	w.fault = func(call string) error {
		if call == "fetch A" {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	b := w.boot()
	b.End = flow.EndRetry
	if outcome, err := b.Run(ctx); outcome != flow.Reboot || !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, %v", outcome, err)
	}
	if slices.Contains(w.trace, "fetch B") {
		t.Error("went on after the context had ended")
	}
}
