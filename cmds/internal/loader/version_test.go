package loader

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/boot/image/handover"
	"github.com/sealboot/sealboot/boot/image/osimage"
	ocipublish "github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/floor"
)

// releases are versions of an image, each in a repository of its own.
type releases struct {
	w      *world
	signer *ocipublish.Signer
	key    []byte
}

func newReleases(w *world) *releases {
	r := &releases{w: w}
	r.signer, r.key = signer(w.t)
	return r
}

func kernelOf(version uint64) string { return fmt.Sprintf("%s, version %d", kernelText, version) }

// push publishes a version in the repository release-N; 0 is an image without one.
func (r *releases) push(version uint64) ocispec.Descriptor {
	r.w.t.Helper()
	var annotations map[string]string
	if version > 0 {
		annotations = map[string]string{osimage.AnnotationVersion: osimage.FormatVersion(version)}
	}
	d := r.w.pushTo(r.name(version), kernelOf(version), initrdText, annotations)
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func (r *releases) name(version uint64) string { return fmt.Sprintf("release-%d", version) }

// sign publishes a version with its signature, and makes it a good one at attestd.
func (r *releases) sign(version uint64) ocispec.Descriptor {
	r.w.t.Helper()
	d := r.push(version)
	if err := r.signer.SignClassic(r.w.t.Context(), r.w.repository(r.name(version)), d, "os"); err != nil {
		r.w.t.Fatal(err)
	}
	r.w.trustVersion(r.name(version), kernelOf(version), initrdText, version)
	return d
}

// source is a signed source whose places have these versions, in this order.
func (r *releases) source(versions ...uint64) config.Source {
	src := config.Source{Type: config.SourceOCI, Ref: r.w.host() + "/" + r.name(versions[0]) + ":stable", PlainHTTP: true, Keys: [][]byte{r.key}, Threshold: 1}
	for _, v := range versions[1:] {
		src.Mirrors = append(src.Mirrors, r.w.host()+"/"+r.name(v))
	}
	return src
}

// provenance is what the last boot measured about its image's origin.
func (w *world) provenance() event.Record {
	w.t.Helper()
	entries, err := cel.Parse(w.loaded.handover[handover.Dir+"/"+handover.EventLog])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Record.Type == event.TypeProvenance {
			return e.Record
		}
	}
	w.t.Fatal("the log has no provenance")
	return event.Record{}
}

// bootsVersion wants the next boot to be of a version.
func (w *world) bootsVersion(version uint64) {
	w.t.Helper()
	w.boots(event.FloorNV)
	if got, want := string(w.loaded.kernel), kernelOf(version); got != want {
		w.t.Fatalf("it booted %.60q; want version %d", got[len(kernelText):], version)
	}
}

func (w *world) console() string { return strings.Join(strings.Fields(w.out.String()), " ") }

// TestImageFloor has a registry with signed versions of an image. What was reported
// healthy outlaws what is older before anything is measured, from the very next boot
// on, whatever mirror or source has it; the next place that has something newer is
// asked in the same boot.
func TestImageFloor(t *testing.T) {
	w := newWorld(t)
	r := newReleases(w)
	for _, v := range []uint64{0, 1, 2} {
		r.sign(v)
	}
	w.conf.Sources = []config.Source{r.source(2)}
	w.bootsVersion(2)
	if got := w.provenance().Detail["version"]; got != "2" {
		t.Errorf("the provenance says version %q", got)
	}
	if !strings.Contains(w.console(), "image version 2") {
		t.Errorf("the console does not say the version:\n%s", &w.out)
	}
	w.conf.Sources = []config.Source{r.source(1)}
	w.bootsVersion(1) // no one has reported anything: no version is outlawed by having been tried
	w.conf.Sources = []config.Source{r.source(2)}
	w.bootsVersion(2)
	w.reportHealth()

	// The floor is raised in the next boot that succeeds. attestd knows already.
	if v := w.floor().ImageVersion; v != 0 {
		t.Fatalf("the image floor is %d before the next boot", v)
	}
	for _, version := range []uint64{1, 0} {
		w.conf.Sources = []config.Source{r.source(version)}
		w.refuses(floor.ErrRollback)
	}
	w.conf.Sources = []config.Source{r.source(1, 0, 2)} // mirrors that are behind
	w.bootsVersion(2)
	if v := w.floor().ImageVersion; v != 2 {
		t.Errorf("the image floor is %d after version 2 was healthy", v)
	}
	w.conf.Sources = []config.Source{r.source(0), r.source(1), r.source(2)} // sources that are
	w.bootsVersion(2)

	// Without attestd's word the floor in the TPM does it.
	w.attestd()
	for _, version := range []uint64{1, 0} {
		w.conf.Sources = []config.Source{r.source(version)}
		w.refuses(floor.ErrRollback)
	}
	if !strings.Contains(w.console(), "has no version") {
		t.Errorf("the console does not say that the image has no version:\n%s", &w.out)
	}
}

// TestImageFloorOnMedia has the versions on a stick.
func TestImageFloorOnMedia(t *testing.T) {
	w := newWorld(t)
	r := newReleases(w)
	for _, v := range []uint64{1, 2} {
		r.sign(v)
	}
	w.layout = t.TempDir()
	for _, v := range []uint64{1, 2} {
		copyLayout(t, w.repository(r.name(v)), fmt.Sprintf("%s/%s", w.layout, r.name(v)))
	}
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable", Keys: [][]byte{r.key}, Threshold: 1}}
	w.bootsVersion(1) // the first directory
	w.conf.Sources = []config.Source{r.source(2)}
	w.bootsVersion(2)
	w.reportHealth()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable", Keys: [][]byte{r.key}, Threshold: 1}}
	w.bootsVersion(2)
	if got := w.provenance().Detail["version"]; got != "2" {
		t.Errorf("the provenance says version %q", got)
	}
}

// TestUnsignedVersion has a mirror that claims a version which no one signed.
func TestUnsignedVersion(t *testing.T) {
	w := newWorld(t)
	r := newReleases(w)
	r.sign(2)
	w.trustVersion(r.name(1<<40), kernelOf(1<<40), initrdText, 2)
	huge := r.push(1 << 40)
	unsigned := r.source(1 << 40)
	unsigned.Keys, unsigned.Threshold = nil, 0
	w.conf.Sources = []config.Source{unsigned}
	w.bootsVersion(1 << 40) // attestd alone judges it
	if got, ok := w.provenance().Detail["version"]; ok {
		t.Errorf("an unsigned version was measured: %q", got)
	}
	if !strings.Contains(w.console(), "nothing vouches") {
		t.Errorf("the console does not say that the version is not signed:\n%s", &w.out)
	}
	w.reportHealth() // version 2, as attestd knows it
	w.bootsVersion(1 << 40)
	if v := w.floor().ImageVersion; v != 0 {
		t.Errorf("an unsigned version raised the floor to %d", v)
	}
	stale := unsigned
	r.push(1)
	stale.Ref = w.host() + "/" + r.name(1) + ":stable"
	w.conf.Sources = []config.Source{stale}
	w.refuses(floor.ErrRollback) // an honest mirror that is behind

	// A digest in the site config vouches for the version as a signature does.
	pinned := unsigned
	pinned.Ref = w.host() + "/" + r.name(1<<40) + "@" + huge.Digest.String()
	w.conf.Sources = []config.Source{pinned}
	w.bootsVersion(1 << 40)
	if v := w.floor().ImageVersion; v != 2 {
		t.Errorf("the floor is %d; want that of attestd's word, 2", v)
	}
	// Once there is a floor, no unsigned version gets past it.
	w.conf.Sources = []config.Source{unsigned}
	w.refuses(floor.ErrRollback)
}

// TestMalformedVersion: a version that cannot be read is not taken for none.
func TestMalformedVersion(t *testing.T) {
	w := newWorld(t)
	for _, text := range []string{"0", "two", "1.2", "-1"} {
		w.pushTo("os", kernelText, initrdText, map[string]string{osimage.AnnotationVersion: text})
		w.reset()
		if outcome, err := w.boot(); outcome != flow.Reboot || !errors.Is(err, osimage.ErrInvalid) {
			t.Errorf("version %q: %v, %v", text, outcome, err)
		}
	}
}

// TestVersionWithoutFloor has a site whose machines may do without a floor, such as
// one that joins with a token and meets attestd for the first time. attestd then
// judges an image with a version; where there is none, it does not boot.
func TestVersionWithoutFloor(t *testing.T) {
	w := newWorld(t)
	r := newReleases(w)
	r.sign(2)
	w.undefine()
	w.conf.Sources = []config.Source{r.source(2)}
	w.refuses(floor.ErrMissing)
	w.conf.Floor = config.FloorOptional
	w.boots(event.FloorAbsent)
	w.conf.Attestd, w.conf.ServerKey, w.conf.ReleaseKey = nil, nil, nil
	w.refuses(floor.ErrMissing)
}

// TestTUFVersionBeforeDownload: an image whose signed version is below the floor is refused by its metadata alone. The
// floor refused it before, too, but only when all of it had been fetched, in every round of every boot.
func TestTUFVersionBeforeDownload(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	r.AddArtifact("targets", "kernel", []byte(kernelOf(2)))
	publish(t, r, 2)
	w.trustVersion("os-2", kernelOf(2), initrdText, 2)
	w.boots(event.FloorNV)
	w.reportHealth()
	w.boots(event.FloorNV)
	publish(t, r, 1)
	r.Forget()
	w.refuses(floor.ErrRollback)
	if asked := r.ArtifactRequests(); len(asked) > 0 {
		t.Errorf("targets were asked for: %v", asked)
	}
}

// TestOrderedVersionBeforeDownload: attestd orders to write the floor anew for version 2. Version 1 is not fetched for
// that either: a disk image would be on the disk by the time that Check says so.
func TestOrderedVersionBeforeDownload(t *testing.T) {
	w := newWorld(t)
	r := w.repo(1)
	w.boots(event.FloorNV)
	w.undefine()
	w.repairFloor(2)
	r.Forget()
	w.refuses(floor.ErrRollback)
	if asked := r.ArtifactRequests(); len(asked) > 0 {
		t.Errorf("targets were asked for: %v", asked)
	}
	r.AddArtifact("targets", "kernel", []byte(kernelOf(2)))
	publish(t, r, 2)
	w.trustVersion("os-2", kernelOf(2), initrdText, 2)
	w.boots(event.FloorRepaired)
}
