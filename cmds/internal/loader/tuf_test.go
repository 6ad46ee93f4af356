package loader

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/machine/clock"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
)

// repo publishes the image of the world as the target "os", with this version.
func (w *world) repo(version int) *tuftest.Repo {
	w.t.Helper()
	r := tuftest.New(w.t)
	r.AddArtifact("targets", "kernel", []byte(kernelText))
	r.AddArtifact("targets", "initrd", []byte(initrdText))
	publish(w.t, r, version)
	w.conf.Sources = []config.Source{{Type: config.SourceTUF, Root: r.Published["root"][0], MetadataURL: r.URL + "/metadata", Target: "os"}}
	return r
}

func publish(t *testing.T, r *tuftest.Repo, version int) {
	t.Helper()
	r.AddArtifact("targets", "os", []byte(`{"kernel":"kernel","initrd":"initrd","cmdline":"`+imageLine+`"}`))
	custom := json.RawMessage(fmt.Sprintf(`{"sealboot":{"kind":"linux","version":%d,"architecture":%q}}`, version, runtime.GOARCH))
	r.Targets().Targets["os"].Custom = &custom
	r.Publish("targets", "snapshot", "timestamp")
}

// reset turns the machine off and on.
func (w *world) reset() {
	w.t.Helper()
	w.tpm.Open(w.t)
	w.tpm.Reset(w.t)
	if err := w.tpm.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// TestTUF boots from a TUF repository, updates, and refuses to go back.
func TestTUF(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("first boot: %v, %v\n%s", outcome, err, &w.out)
	}
	// The same image, so the same image PCR as from a registry.
	if got := w.pcr12(); got != w.afterCap() {
		t.Errorf("PCR 12 = %s; want %s", got, w.afterCap())
	}

	old := [][]byte{r.Last("timestamp"), r.Last("snapshot"), r.Last("targets")}
	publish(t, r, 2)
	w.reset()
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot of the update: %v, %v\n%s", outcome, err, &w.out)
	}

	// The disk is empty, the repository as it was before: only the TPM knows.
	for i, role := range []string{"timestamp", "snapshot", "targets"} {
		r.Published[role] = append(r.Published[role], old[i])
	}
	w.reset()
	w.loaded = nil
	outcome, err := w.boot()
	if outcome != flow.Reboot || err == nil || w.loaded != nil {
		t.Fatalf("boot after the rollback: %v, %v", outcome, err)
	}
	if !strings.Contains(w.out.String(), "was seen") || !strings.Contains(w.out.String(), "FAILED at fetch") {
		t.Errorf("the console does not say why:\n%s", &w.out)
	}
}

// TestFastForward lets a thief of the timestamp's key sign a huge version. The floor in the TPM holds it, also against
// the owner, until root gives the role another key: then versions begin anew.
func TestFastForward(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	publishTimestamp := func(version int64) {
		r.Timestamp.Signed.Version = version - 1
		r.Publish("timestamp")
	}
	publishTimestamp(1 << 40)
	w.boots(event.FloorNV)
	publishTimestamp(5)
	w.refuses(floor.ErrRollback)
	r.RotateKeys("timestamp")
	r.Publish("root")
	publishTimestamp(5)
	w.boots(event.FloorNV)
	if f := w.floor(); f.Timestamp.Version != 5 || f.RootVersion != 2 {
		t.Errorf("the floor is %+v", f)
	}
	publishTimestamp(4)
	w.refuses(floor.ErrRollback)
	publishTimestamp(1 << 47) // from where there would be no way back
	w.refuses(floor.ErrJump)
}

// TestExpired shows that the signed time judges the metadata.
func TestExpired(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	r.Timestamp.Signed.Expires = time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	r.Publish("timestamp")
	if outcome, err := w.boot(); outcome != flow.Reboot || err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired timestamp: %v, %v", outcome, err)
	}
}

// signAhead has the timestamp signed at a time to come.
func signAhead(r *tuftest.Repo, by time.Duration) (signed time.Time) {
	signed = time.Now().Add(by).UTC().Truncate(time.Second)
	r.Timestamp.Signed.Expires = signed.Add(24 * time.Hour)
	r.Timestamp.Signed.UnrecognizedFields = map[string]any{tuf.LifetimeField: 24}
	r.Publish("timestamp")
	return signed
}

// TestBehind shows that metadata signed after the machine's clock moves it, where there is no attestd to sign the time.
func TestBehind(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	w.conf.Attestd, w.conf.ServerKey, w.conf.ReleaseKey = nil, nil, nil
	signed := signAhead(r, 48*time.Hour)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if s := w.machine.clock.State(); s.Source != clock.SourceMetadata || s.Lower.Before(signed) {
		t.Errorf("clock %+v; want at least %v by the metadata", s, signed)
	}
	if f, err := (floor.Store{TPM: w.tpm.Open(t)}).Read(t.Context()); err != nil || f.Time.Before(signed.Truncate(timeGrain)) {
		t.Errorf("floor %+v, %v; want its time at %v", f, err, signed)
	}
}

// TestSignerAhead lets anyone who has the timestamp's key sign in three years: neither the clock that attestd gave nor the
// floor follows.
func TestSignerAhead(t *testing.T) {
	w := newWorld(t)
	signAhead(w.repo(1), 3*365*24*time.Hour)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if s := w.machine.clock.State(); s.Source != clock.SourceAttestd || s.Lower.After(tomorrow) {
		t.Errorf("clock %+v; want attestd's", s)
	}
	if f := w.floor(); f.Time.After(tomorrow) {
		t.Errorf("time floor %v; want attestd's time", f.Time)
	}
}
