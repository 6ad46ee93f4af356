package loader

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/handover"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/tpm/tpmtest"
)

// TestWholeBoot takes a machine from nothing to the kernel that it would run.
func TestWholeBoot(t *testing.T) {
	w := newWorld(t)
	outcome, err := w.boot()
	if outcome != flow.Kexec || err != nil {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if w.loaded == nil || string(w.loaded.kernel) != kernelText || w.loaded.cmdline != imageLine+" "+siteLine {
		t.Fatalf("kexec was given %+v", w.loaded)
	}
	file := func(name string) []byte { return w.loaded.handover[handover.Dir+"/"+name] }
	if !bytes.Equal(file(handover.SealKey), w.site.SealKey) {
		t.Error("the seal key was not handed over")
	}
	for _, name := range []string{handover.Attestation, handover.AgentCert, handover.AgentApproval, handover.SiteCA} {
		if len(file(name)) == 0 {
			t.Errorf("%s was not handed over", name)
		}
	}
	if got := w.pcr12(); got != w.afterCap() {
		t.Errorf("PCR 12 = %s; predicted %s", got, w.afterCap())
	}
	checkLog(t, w, file(handover.EventLog))
	for _, secret := range []string{string(w.site.SealKey), hex.EncodeToString(w.site.SealKey)} {
		if strings.Contains(w.out.String(), secret) || strings.Contains(w.loaded.cmdline, secret) {
			t.Error("the seal key was shown")
		}
	}
}

// checkLog replays the log that was handed over, the cap included.
func checkLog(t *testing.T, w *world, log []byte) {
	t.Helper()
	entries, err := cel.Parse(log)
	if err != nil {
		t.Fatal(err)
	}
	values, err := cel.Replay(nil, entries, tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	found, err := w.tpm.ReadPCRs(t.Context(), tpm2.TPMAlgSHA256, []int{12, 13})
	if err != nil {
		t.Fatal(err)
	}
	var types []event.Type
	for _, e := range entries {
		types = append(types, e.Record.Type)
	}
	for _, index := range []int{12, 13} {
		if !bytes.Equal(values[index], found[index]) {
			t.Errorf("PCR %d: the log gives %x, the TPM %x", index, values[index], found[index])
		}
	}
	want := []event.Type{
		event.TypeBootDescriptor, event.TypeArtifact, event.TypeArtifact, event.TypeArtifact,
		event.TypeSiteConfig, event.TypeProvenance, event.TypeReleaseKey, event.TypeClock, event.TypeFloor, event.TypeCap,
	}
	if !slices.Equal(types, want) {
		t.Errorf("events %v; want %v", types, want)
	}
}

// TestSecondBoot shows that a machine comes back after a reset, and not without.
func TestSecondBoot(t *testing.T) {
	w := newWorld(t)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatal(err)
	}
	if outcome, err := w.boot(); outcome != flow.Reboot || !errors.Is(err, errUsed) {
		t.Errorf("boot without a reset: %v, %v; want errUsed", outcome, err)
	}
	w.reset()
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Errorf("boot after a reset: %v, %v", outcome, err)
	}
}

// TestJoin boots a machine that no one enrolled: it asks, waits, and is let in.
func TestJoin(t *testing.T) {
	w := newWorld(t)
	w.tpm = tpmtest.Start(t, tpmtest.Options{Identity: 1})
	if err := w.tpm.Close(); err != nil {
		t.Fatal(err)
	}
	const token = "delivery-of-spring"
	if err := w.store.AddToken(t.Context(), store.Token{Name: "spring", Secret: []byte(token), Expires: time.Now().Add(time.Hour), Uses: 1}, store.Event{}); err != nil {
		t.Fatal(err)
	}
	w.conf.Attestd.JoinToken = token
	w.conf.Floor = config.FloorOptional // it is ordered in the first boot that attestd knows the machine
	if outcome, err := w.boot(); outcome == flow.Kexec || !strings.Contains(w.out.String(), "waits for an operator") {
		t.Fatalf("a stranger's boot: %v, %v\n%s", outcome, err, &w.out)
	}
	devices, err := w.store.Devices(t.Context(), "", 10)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(devices, func(d store.Device) bool { return d.State == store.Pending })
	if i < 0 {
		t.Fatalf("nobody waits: %+v", devices)
	}
	if err := errors.Join(w.store.SetState(t.Context(), devices[i].ID, store.Enrolled, store.Event{}),
		w.store.SetPolicy(t.Context(), devices[i].ID, store.DevicePolicy{AllowUnmeasured: true}, store.Event{})); err != nil {
		t.Fatal(err)
	}
	w.reset()
	if outcome, err := w.boot(); outcome != flow.Kexec || err != nil {
		t.Errorf("after it was allowed: %v, %v\n%s", outcome, err, &w.out)
	}
}

// A failure is a boot that must not succeed.
type failure struct {
	name   string
	change func(t *testing.T, w *world)
	stage  string   // on the console
	says   []string // on the console
	loaded bool     // kexec was given something
	clean  bool     // the image PCR stays zero
}

func TestFailures(t *testing.T) {
	for _, c := range []failure{
		{name: "image changed behind its tag", stage: "attest", says: []string{"image", "PCR 12"},
			change: func(_ *testing.T, w *world) { w.push(ukitest.BzImage("A kernel"), initrdText) }},
		{name: "command line changed", stage: "attest", says: []string{"image", "PCR 12"},
			change: func(_ *testing.T, w *world) { w.conf.Cmdline += " init=/bin/sh" }},
		{name: "registry gone", stage: "fetch", says: []string{"refused"}, clean: true,
			change: func(_ *testing.T, w *world) { w.registry.Close() }},
		{name: "registry has no such image", stage: "fetch", says: []string{"not found"}, clean: true,
			change: func(_ *testing.T, w *world) { w.conf.Sources[0].Ref = w.host() + "/os:none" }},
		{name: "registry talks garbage", stage: "fetch", clean: true,
			change: func(t *testing.T, w *world) {
				w.conf.Sources[0].Ref = strings.TrimPrefix(garbage(t), "http://") + "/os:stable"
			}},
		{name: "image not signed", stage: "fetch", says: []string{"signatures"}, clean: true,
			change: func(t *testing.T, w *world) { w.conf.Sources[0].Keys = [][]byte{pkix(t, w.site.ServerPublic())} }},
		{name: "attestd gone", stage: "attest", says: []string{"no signed time", "refused"},
			change: func(_ *testing.T, w *world) { w.attestd() }},
		{name: "attestd gone, and the time is required", stage: "hello", says: []string{"signed the time"}, clean: true,
			change: func(_ *testing.T, w *world) { w.attestd(); w.conf.Clock = "require" }},
		{name: "attestd talks garbage", stage: "attest",
			change: func(t *testing.T, w *world) { w.conf.Attestd.URL, w.conf.Lab = garbage(t), true }},
		{name: "another site's attestd", stage: "attest", says: []string{"signature"},
			change: func(t *testing.T, w *world) {
				// The keys are swapped: what attestd signs is not what the loader was built for.
				w.conf.ServerKey, w.conf.ReleaseKey = w.conf.ReleaseKey, w.conf.ServerKey
			}},
		{name: "device not enrolled", stage: "attest", says: []string{"device"},
			change: func(t *testing.T, w *world) {
				devices, err := w.store.Devices(t.Context(), "", 1)
				if err != nil || len(devices) != 1 {
					t.Fatal(devices, err)
				}
				if err := w.store.SetState(t.Context(), devices[0].ID, store.Quarantined, store.Event{Kind: "block"}); err != nil {
					t.Fatal(err)
				}
			}},
		{name: "kexec fails after the release", stage: "load", says: []string{"no room"}, loaded: true,
			change: func(_ *testing.T, w *world) { w.kexec = errors.New("no room for the kernel") }},
		{name: "no TPM", stage: "prepare", says: []string{"TPM"}, clean: true,
			change: func(_ *testing.T, w *world) { w.tpm.Addr = "unix:" + w.t.TempDir() + "/none" }},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c *failure) run(t *testing.T) {
	w := newWorld(t)
	w.conf.End = "shell" // what must not be reached once an image is measured
	w.conf.Shell = true
	addr := w.tpm.Addr
	c.change(t, w)
	outcome, err := w.boot()
	out := w.out.String()
	if err == nil || outcome == flow.Kexec {
		t.Fatalf("it booted:\n%s", out)
	}
	if !strings.Contains(out, "FAILED at "+c.stage) {
		t.Errorf("not failed at %s:\n%s", c.stage, out)
	}
	flat := strings.Join(strings.Fields(out), " ")
	for _, text := range c.says {
		if !strings.Contains(flat, text) {
			t.Errorf("the console does not say %q:\n%s", text, out)
		}
	}
	if (w.loaded != nil) != c.loaded {
		t.Errorf("kexec was given something: %v", w.loaded != nil)
	}
	if !c.clean && outcome != flow.Reboot {
		t.Errorf("outcome %v after the image was measured; want a reset", outcome)
	}
	w.tpm.Addr = addr
	if got := w.pcr12(); got == hex.EncodeToString(w.predicted().Attested[tpm2.TPMAlgSHA256]) {
		t.Error("the image PCR still has the value for which secrets are released")
	}
	if c.clean && outcome == flow.Shell && w.pcr12() == strings.Repeat("0", 64) {
		t.Error("a shell without its marker")
	}
}

// garbage is a server that answers everything with nonsense.
func garbage(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write(bytes.Repeat([]byte("{[garbage"), 10000))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestMirror boots from the mirror of a registry that is gone.
func TestMirror(t *testing.T) {
	w := newWorld(t)
	w.conf.Sources[0].Mirrors = []string{w.host() + "/os"}
	w.conf.Sources[0].Ref = "127.0.0.1:1/os:stable"
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Errorf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
}

// TestNextSource boots from the second source when the first is bad.
func TestNextSource(t *testing.T) {
	w := newWorld(t)
	bad := config.Source{Type: config.SourceOCI, Ref: "127.0.0.1:1/os:stable", PlainHTTP: true}
	w.conf.Sources = []config.Source{bad, w.conf.Sources[0]}
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Errorf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
}
