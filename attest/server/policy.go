package server

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
)

// Names under which the store keeps the highest versions that a device has proven.
const (
	versionHealthy = "healthy" // image version that its OS reported healthy
	versionImage   = "image"   // image version that it booted
	floorPrefix    = "floor/"  // fields of its rollback floor
	// versionFloor is 1 when the TPM held the floor, 0 when the device booted without.
	versionFloor = floorPrefix + "present"
	// versionRoot is the strength of the platform's root of trust.
	versionRoot = "root-of-trust"
	// versionBank is the number of the PCR bank that it was judged by.
	versionBank = "bank"
)

// finding is what the appraisal policy says of verified evidence. No reasons means that it agrees.
type finding struct {
	reasons  []wire.Reason
	image    string           // name of the reference values that the image matched
	version  int64            // of the image
	versions map[string]int64 // what the device has shown, to be remembered
}

// appraiseFunc appraises verified evidence of one device.
type appraiseFunc func(*verify.Verified, policy.Device) finding

// appraisers keeps the parsed documents until one of them changes in the store.
type appraisers struct {
	parse      func([]store.Document) (appraiseFunc, error)
	mu         sync.Mutex
	generation int64
	current    appraiseFunc
}

func (a *appraisers) get(ctx context.Context, st *store.Store) (appraiseFunc, error) {
	generation, err := st.Generation(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil && a.generation == generation {
		return a.current, nil
	}
	documents, err := st.Documents(ctx)
	if err != nil {
		return nil, err
	}
	f, err := a.parse(documents)
	if err != nil {
		return nil, fmt.Errorf("read the site's policy: %w", err)
	}
	a.current, a.generation = f, generation
	return f, nil
}

// parseDocuments builds the policy from the documents in use, oldest first.
func parseDocuments(documents []store.Document) (appraiseFunc, error) {
	documents = slices.Clone(documents)
	slices.SortStableFunc(documents, func(a, b store.Document) int { return a.Added.Compare(b.Added) })
	var set policy.Set
	for _, d := range documents {
		if !d.Retired.IsZero() {
			continue
		}
		doc, err := policy.Parse(d.Body)
		if err != nil {
			return nil, fmt.Errorf("document %s/%s: %w", d.Kind, d.Name, err)
		}
		set.Add(doc)
	}
	return func(v *verify.Verified, d policy.Device) finding {
		a := set.Appraise(v, d)
		f := finding{reasons: a.Reasons, versions: floorVersions(v)}
		if a.Image != nil {
			f.image, f.version = a.Image.Name, int64(min(a.Image.ImageVersion, math.MaxInt64))
			f.versions[versionImage] = f.version
		}
		f.versions[versionBank] = int64(v.PCRs.Bank)
		if a.Profile != nil {
			f.versions[versionRoot] = int64(a.Profile.RootOfTrust.Strength())
		}
		return f
	}, nil
}

// floorVersions are the numbers in the measured record of the device's rollback floor.
func floorVersions(v *verify.Verified) map[string]int64 {
	out := map[string]int64{}
	for _, e := range v.Loader {
		if e.PCR != v.AuthorityPCR || e.Record.Type != event.TypeFloor {
			continue
		}
		out[versionFloor] = 1
		if e.Record.Name == event.FloorAbsent || e.Record.Name == event.FloorDisk {
			out[versionFloor] = 0
		}
		for key, text := range e.Record.Detail {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
				out[floorName(key, e.Record.Detail)] = n
			}
		}
	}
	return out
}

// floorName is what a field of a floor is remembered under. A newer root of TUF may give a role other keys, under which
// its versions begin anew: that is how a repository recovers from a thief, and not going back.
func floorName(key string, floor map[string]string) string {
	switch key {
	case "timestamp", "snapshot", "targets":
		return floorPrefix + "root-" + floor["root"] + "/" + key
	}
	return floorPrefix + key
}

// rulesFor is what the site decided about one device.
func (s *Server) rulesFor(d store.Device, seen map[string]int64) policy.Device {
	return policy.Device{
		Profiles: d.Policy.Profiles, Images: d.Policy.Images, AllowUnmeasured: d.Policy.AllowUnmeasured,
		MinImageVersion: uint64(max(seen[versionHealthy], 0)),
		// Who enrolled a device by certificate or hash has vouched for its key; a join token vouches for nothing.
		RequireEndorsement: s.Site.Endorsement == site.EndorsedByCertificate && d.Tier == "token",
	}
}

// floorGone denies a device that had a rollback floor in its TPM and now shows none: somebody with its
// owner's rights took it away, and who would profit from that is whoever boots something old.
func floorGone(f finding, seen map[string]int64) []wire.Reason {
	if present, told := f.versions[versionFloor]; !told || present != 0 || seen[versionFloor] == 0 {
		return nil
	}
	return []wire.Reason{{Code: wire.CodeRollback, Detail: "the rollback floor that this device had is gone; order it to be written anew"}}
}

// weaker denies a device whose platform has a weaker root of trust than it has proven before. Who takes a TPM out of
// its machine can ask it from any other: a site that accepts virtual machines must not thereby accept one that holds
// the TPM of a stolen box. A renewal is held to it too, or the agent would live on where no boot is admitted. Naming the device's profiles in its policy overrides this.
func weaker(f finding, d store.Device, seen map[string]int64) []wire.Reason {
	now, told := f.versions[versionRoot]
	if !told || now >= seen[versionRoot] || len(d.Policy.Profiles) > 0 {
		return nil
	}
	return []wire.Reason{{Code: wire.CodeFirmware, Detail: "this device has proven a platform with a stronger root of trust before; " +
		"if it has really changed, name its profile: sealboot device policy"}}
}

// otherBank denies a device that shows another PCR bank than it has proven before. It says itself which banks are active,
// and one that its firmware does not extend holds what an OS puts there. Naming the device's profiles overrides this.
func otherBank(f finding, d store.Device, seen map[string]int64) []wire.Reason {
	now, told := f.versions[versionBank]
	if !told || seen[versionBank] == 0 || now == seen[versionBank] || len(d.Policy.Profiles) > 0 {
		return nil
	}
	return []wire.Reason{{Code: wire.CodeSelection, Detail: "this device has proven another PCR bank before; " +
		"if its firmware's setup has really changed, name its profile: sealboot device policy"}}
}

// wentBack says in what a device shows older versions than before. That is not a reason to deny, since a
// device may return from an update that did not work, but it is worth a look.
func wentBack(f finding, seen map[string]int64) string {
	for _, name := range slices.Sorted(maps.Keys(f.versions)) {
		if n := f.versions[name]; n < seen[name] {
			return fmt.Sprintf("went back: %s %d, had shown %d before", name, n, seen[name])
		}
	}
	return ""
}
