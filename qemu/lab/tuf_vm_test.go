//go:build vm

package lab

import (
	"crypto"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
)

// withTUF gives the test's machine a loader that boots from TUF, then from an
// offline bundle of the same repository, then from the image on a volume.
func withTUF(t *testing.T, l *Lab) {
	t.Helper()
	ctx := t.Context()
	loader, site, from, media := l.loader, l.siteJSON, l.o.Boot, l.facts.media
	t.Cleanup(func() {
		l.loader, l.siteJSON, l.o.Boot, l.facts.media = loader, site, from, media
		l.dropTUF()
	})
	l.o.Boot = []BootSource{FromTUF, FromBundle, FromMedia}
	l.loader, l.siteJSON = l.unitPath("loader"), l.unitPath("site.json")
	if err := l.buildLoader(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.ExportTUF(ctx); err != nil { // the bundle's target is in it now
		t.Fatal(err)
	}
	if err := l.trustLoader(ctx); err != nil {
		t.Fatal(err)
	}
}

// dropTUF removes what stands for TUF in a test.
func (l *Lab) dropTUF() {
	if l.web != nil {
		l.web.stop()
		l.web = nil
	}
	for _, dir := range []string{l.tufRepo(), l.tufState(), l.tufSite(), l.path("tuf-keys"), l.path("stick")} {
		os.RemoveAll(dir)
	}
}

// TestTUF follows a machine through its repository's life, over plain HTTP.
func TestTUF(t *testing.T) {
	l := machine(t)
	withTUF(t, l)
	for _, step := range []struct {
		name string
		do   func(*testing.T, *Lab)
	}{
		{"first boot", tufFirst}, {"media", tufMedia}, {"update with a rotated key", tufUpdate}, {"rollback", tufRollback}, {"expired", tufExpired},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.do(t, l) }) {
			return
		}
	}
}

func tufFirst(t *testing.T, l *Lab) {
	b := switchOn(t, l, l.Machine())
	wantUp(t, b)
	if got := l.quoted(wire.PhaseBoot, event.PCRImage); got != l.predicted() {
		t.Errorf("PCR 12 is %s; for the registry %s was predicted", got, l.predicted())
	}
	wantRecord(t, l, event.TypeProvenance, map[string]string{"target": tufTarget})
	wantRecord(t, l, event.TypeFloor, map[string]string{"image": "0"})
	wantRecord(t, l, event.TypeClock, map[string]string{"trusted": "true"})
}

// tufMedia boots without the repository, from the same image on a volume: what will
// run is the same, so PCR 12 is, whatever vouches for it.
func tufMedia(t *testing.T, l *Lab) {
	away := l.unitPath("away")
	_, err := l.mediaSource(t.Context())
	if err := errors.Join(err, os.Rename(l.tufSite(), away)); err != nil {
		t.Fatal(err)
	}
	b := switchOn(t, l, l.Machine())
	wantUp(t, b)
	if got := l.quoted(wire.PhaseBoot, event.PCRImage); got != l.predicted() {
		t.Errorf("PCR 12 from the volume is %s; for the registry %s was predicted", got, l.predicted())
	}
	if r := record(t, l, event.TypeProvenance); r.Detail["target"] != "" {
		t.Errorf("TUF vouched for it: %+v", r)
	}
	if err := os.Rename(away, l.tufSite()); err != nil {
		t.Fatal(err)
	}
}

// tufUpdate publishes a version of the image under a new key for the timestamp.
func tufUpdate(t *testing.T, l *Lab) {
	ctx := t.Context()
	if out, err := exec.CommandContext(ctx, "cp", "-a", l.tufSite(), l.unitPath("older")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	old, fresh := l.path("tuf-keys", "timestamp.pem"), l.path("tuf-keys", "timestamp-2.pem")
	if err := sign.Generate(fresh); err != nil {
		t.Fatal(err)
	}
	if err := l.TUF(ctx, "rotate", tuf.RoleTimestamp, "--old", old, "--new", fresh); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(old), l.PublishTUF(ctx, 2)); err != nil {
		t.Fatal(err)
	}
	b := switchOn(t, l, l.Machine())
	wantUp(t, b)
	if !strings.Contains(b.Console, tufTarget+" version 2") {
		t.Error("the console does not name version 2")
	}
	// The agent of the first boot has reported version 1.
	wantRecord(t, l, event.TypeFloor, map[string]string{"image": "1", "root": "2"})
}

// tufRollback serves what was served before the update. A bundle of today is in
// the machine.
func tufRollback(t *testing.T, l *Lab) {
	ctx := t.Context()
	if _, err := l.bundleSource(ctx); err != nil {
		t.Fatal(err)
	}
	newer := l.unitPath("newer")
	if err := errors.Join(os.Rename(l.tufSite(), newer), os.Rename(l.unitPath("older"), l.tufSite())); err != nil {
		t.Fatal(err)
	}
	b := switchOn(t, l, l.Machine())
	wantUp(t, b)
	i := slices.IndexFunc(b.Events, func(e ConsoleEvent) bool { return e.Event == "failed" })
	if i < 0 || !strings.Contains(b.Events[i].Text, "older than") || b.Events[i].Next != "the next source" {
		t.Errorf("the loader did not say that the repository is older: %+v", b.Events)
	} else {
		t.Logf("%s; next: %s", b.Events[i].Text, b.Events[i].Next)
	}
	wantRecord(t, l, event.TypeProvenance, map[string]string{"target": bundleTarget})
	if got := l.quoted(wire.PhaseBoot, event.PCRImage); got != l.predicted() {
		t.Errorf("PCR 12 from the bundle is %s; for the registry %s was predicted", got, l.predicted())
	}
	if err := errors.Join(os.RemoveAll(l.tufSite()), os.Rename(newer, l.tufSite())); err != nil {
		t.Fatal(err)
	}
}

// tufExpired serves a timestamp that has run out, with the bundle gone. That the
// machine's clock stands at 1970 does not help: attestd signs the time.
func tufExpired(t *testing.T, l *Lab) {
	ctx := t.Context()
	r, err := tufrepo.Open(ctx, l.tufRepo(), tufrepo.Operator{State: l.tufState()})
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := tufrepo.ReadKey(l.path("tuf-keys", "timestamp-2.pem"))
	if err == nil {
		_, err = r.Apply(ctx, time.Now().AddDate(-1, 0, 0), []crypto.Signer{key}, tufrepo.Refresh(tuf.RoleTimestamp))
	}
	if err := errors.Join(err, r.Close(), l.ExportTUF(ctx)); err != nil {
		t.Fatal(err)
	}
	l.facts.media = ""
	c := l.Machine()
	c.RTC = time.Unix(0, 0)
	b := switchOn(t, l, c)
	wantRefusal(t, b, "fetch")
	if !slices.ContainsFunc(b.Events, func(e ConsoleEvent) bool { return e.Event == "failed" && strings.Contains(e.Text, "expired") }) {
		t.Error("no failure says that the timestamp has expired")
	}
	wantEnd(t, b, poweroff)
}

// TestHostileOS boots an operating system that takes the rollback floor away and
// defines it anew. The loader boots nothing after that, until an order of
// attestd's, which is measured.
func TestHostileOS(t *testing.T) {
	l := machine(t)
	bootsImage(t, l, "vandal", vandalised(t, l))
	b := switchOn(t, l, l.Machine())
	wantUp(t, b)
	wantRecord(t, l, event.TypeFloor, map[string]string{"image": "0"})
	for _, did := range []string{"lower as the owner: refused", "lower as the policy: refused", "undefine: done", "redefine: done", "write as the policy: refused"} {
		if !slices.ContainsFunc(b.Demo(), func(line string) bool { return strings.HasPrefix(line, did) }) {
			t.Errorf("the hostile system did not say %q: %q", did, b.Demo())
		}
	}

	b = switchOn(t, l, l.Machine())
	wantRefusal(t, b, "floor", "rollback floor was never written", "repair-floor")
	wantEnd(t, b, poweroff)
	wantReleases(t, l, 1)

	if _, err := l.sealboot(t.Context(), "device", "repair-floor", "--dir", l.site, l.facts.device, "--version", "0"); err != nil {
		t.Fatal(err)
	}
	wantUp(t, switchOn(t, l, l.Machine()))
	if r := record(t, l, event.TypeFloor); r.Name != event.FloorRepaired {
		t.Errorf("the floor's record is %q; want that it was repaired", r.Name)
	}
}

// vandalised is the operating system with the vandal in the demo's place.
func vandalised(t *testing.T, l *Lab) v1.Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "vandal")
	_, err := l.run(t.Context(), l.o.Source, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./qemu/lab/vandal")
	if err != nil {
		t.Fatal(err)
	}
	image, err := l.image()
	if err == nil {
		image, err = appendFiles(image,
			file{"usr/lib/sealboot/vandal", 0o755, content(t, program)},
			file{"usr/lib/sealboot/demo", 0o755, []byte("#!/bin/sh\n/usr/lib/sealboot/vandal 2>&1 | sed 's/^/sealboot-demo: /'\nsystemctl --no-block poweroff\n")})
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// record is the first of a type that the machine measured in its last boot that
// attestd judged.
func record(t *testing.T, l *Lab, kind event.Type) event.Record {
	t.Helper()
	all := records(t, l, kind)
	if len(all) == 0 {
		t.Fatalf("nothing of type %s was measured", kind)
	}
	return all[0]
}

// records are all of them.
func records(t *testing.T, l *Lab, kind event.Type) (all []event.Record) {
	t.Helper()
	_, e, err := l.evidence(wire.PhaseBoot)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := cel.Parse(e.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Record.Type == kind {
			all = append(all, entry.Record)
		}
	}
	return all
}

func wantRecord(t *testing.T, l *Lab, kind event.Type, detail map[string]string) {
	t.Helper()
	r := record(t, l, kind)
	for name, want := range detail {
		if r.Detail[name] != want {
			t.Errorf("%s: %s is %q, want %q: %+v", kind, name, r.Detail[name], want, r)
		}
	}
}
