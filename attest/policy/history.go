package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
)

// A History is what a device has proven in its acknowledged boots: of each number the
// highest. The zero value is that of a device which has not booted yet. What evidence
// shows has the same form ([Appraisal.Proven]).
type History struct {
	HealthyVersion int64         // image version that its OS reported healthy
	ImageVersion   int64         // image version that it booted
	RootOfTrust    int           // strength of the platform's root of trust; 0 is unknown
	Bank           tpm2.TPMAlgID // PCR bank that it was judged by; 0 is unknown
	Floor          *FloorHistory // its rollback floor; nil if no record of one was measured
}

// A FloorHistory is what the records of a device's rollback floor said.
type FloorHistory struct {
	// Present says that the TPM held the floor. Without it the device booted without
	// one, or with a file in its place.
	Present bool
	// Numbers are the fields of the record: "image", "root", "time", and TUF's roles under
	// the version of the root that gave them their keys, as in "root-3/timestamp". Under
	// other keys versions begin anew: that is how a repository recovers from a thief, and
	// not going back.
	Numbers map[string]int64
}

// Names of a history's numbers in a store.
const (
	numberHealthy = "healthy"
	numberImage   = "image"
	numberRoot    = "root-of-trust"
	numberBank    = "bank"
	numberFloor   = "floor/"
	numberPresent = numberFloor + "present"
)

// HistoryOf reads the numbers that a store keeps; see [History.Numbers].
func HistoryOf(numbers map[string]int64) History {
	h := History{
		HealthyVersion: numbers[numberHealthy], ImageVersion: numbers[numberImage],
		RootOfTrust: int(numbers[numberRoot]), Bank: tpm2.TPMAlgID(numbers[numberBank]),
	}
	for name, n := range numbers {
		field, ok := strings.CutPrefix(name, numberFloor)
		if !ok {
			continue
		}
		if h.Floor == nil {
			h.Floor = &FloorHistory{Numbers: map[string]int64{}}
		}
		if name == numberPresent {
			h.Floor.Present = n > 0
		} else {
			h.Floor.Numbers[field] = n
		}
	}
	return h
}

// Numbers are the history in the form in which a store keeps it, and raises one number
// after the other. Zero numbers are left out, but for those of the floor.
func (h History) Numbers() map[string]int64 {
	numbers := map[string]int64{}
	for name, n := range map[string]int64{
		numberHealthy: h.HealthyVersion, numberImage: h.ImageVersion, numberRoot: int64(h.RootOfTrust), numberBank: int64(h.Bank),
	} {
		if n != 0 {
			numbers[name] = n
		}
	}
	if f := h.Floor; f != nil {
		for field, n := range f.Numbers {
			numbers[numberFloor+field] = n
		}
		numbers[numberPresent] = 0
		if f.Present {
			numbers[numberPresent] = 1
		}
	}
	return numbers
}

// floorOf is the measured record of the device's rollback floor.
func floorOf(v *verify.Verified) *FloorHistory {
	var f *FloorHistory
	for _, r := range recordsOf(v, v.AuthorityPCR) {
		if r.Type != event.TypeFloor {
			continue
		}
		if f == nil {
			f = &FloorHistory{Numbers: map[string]int64{}}
		}
		f.Present = r.Name != event.FloorAbsent && r.Name != event.FloorDisk
		for key, text := range r.Detail {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
				f.Numbers[floorField(key, r.Detail)] = n
			}
		}
	}
	return f
}

// floorField is the name of a field in [FloorHistory.Numbers].
func floorField(key string, record map[string]string) string {
	switch key {
	case "timestamp", "snapshot", "targets":
		return "root-" + record["root"] + "/" + key
	}
	return key
}

// appraiseHistory compares what a device shows with what it has proven before.
func appraiseHistory(a *Appraisal, d Device, before History) {
	floorGone(a, before)
	weaker(a, d, before)
	otherBank(a, d, before)
	a.WentBack = wentBack(a, before)
}

// floorGone denies a device that had a rollback floor in its TPM and now shows none:
// somebody with its owner's rights took it away, which helps to boot something old.
func floorGone(a *Appraisal, before History) {
	had := before.Floor != nil && before.Floor.Present
	if now := a.Proven.Floor; had && now != nil && !now.Present {
		a.deny(wire.Reason{Code: wire.CodeRollback, Detail: "the rollback floor that this device had is gone; order it to be written anew"})
	}
}

// weaker denies a device whose platform has a weaker root of trust than it has proven before. A thief who takes a TPM
// out of its machine can ask it from any other: a site that accepts virtual machines must not thereby accept one that
// holds the TPM of a stolen box. A renewal is held to it too, or the agent would live on where no boot is admitted.
// Naming the device's profiles in its policy overrides this.
func weaker(a *Appraisal, d Device, before History) {
	if a.Profile == nil || a.Proven.RootOfTrust >= before.RootOfTrust || len(d.Profiles) > 0 {
		return
	}
	a.deny(wire.Reason{Code: wire.CodeFirmware, Detail: "this device has proven a platform with a stronger root of trust before; " +
		"if it has really changed, name its profile: sealboot device policy"})
}

// otherBank denies a device that shows another PCR bank than it has proven before. It says itself which banks are active,
// and one that its firmware does not extend holds what an OS puts there. Naming the device's profiles overrides this.
func otherBank(a *Appraisal, d Device, before History) {
	if now := a.Proven.Bank; before.Bank == 0 || now == before.Bank || len(d.Profiles) > 0 {
		return
	}
	a.deny(wire.Reason{Code: wire.CodeSelection, Detail: "this device has proven another PCR bank before; " +
		"if its firmware's setup has really changed, name its profile: sealboot device policy"})
}

// wentBack says in what a device shows older versions than before. That is not a reason to deny, since a
// device may return from an update that did not work, but it is worth a look.
func wentBack(a *Appraisal, before History) string {
	now, was := a.Proven.Numbers(), before.Numbers()
	if a.Image != nil {
		now[numberImage] = a.Proven.ImageVersion // also 0
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if n := now[name]; n < was[name] {
			return fmt.Sprintf("went back: %s %d, had shown %d before", name, n, was[name])
		}
	}
	return ""
}
