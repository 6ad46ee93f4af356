package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
)

// withFloor makes this the record of a rollback floor.
func withFloor(v *verify.Verified, name string, detail map[string]string) {
	v.Loader = slices.DeleteFunc(slices.Clone(v.Loader), func(e cel.Entry) bool { return e.Record.Type == event.TypeFloor })
	v.Loader = append(v.Loader, cel.Entry{PCR: v.AuthorityPCR, Record: event.Record{Type: event.TypeFloor, Name: name, Detail: detail}})
}

// TestHistoryDenies has good evidence of devices that have proven something else before.
func TestHistoryDenies(t *testing.T) {
	had := History{Floor: &FloorHistory{Present: true}}
	for name, c := range map[string]struct {
		before History
		device Device
		change func(*verify.Verified, *Set)
		want   wire.Code // empty: allowed
	}{
		"first boot":                   {},
		"rollback":                     {before: History{HealthyVersion: 3}, want: wire.CodeRollback},
		"the version that was healthy": {before: History{HealthyVersion: 2}},
		"the floor is gone":            {before: had, change: func(v *verify.Verified, _ *Set) { withFloor(v, event.FloorAbsent, nil) }, want: wire.CodeRollback},
		"the floor is gone, and its record says that it is present": {before: had,
			change: func(v *verify.Verified, _ *Set) { withFloor(v, event.FloorAbsent, map[string]string{"present": "1"}) }, want: wire.CodeRollback},
		"a file in place of the floor":              {before: had, change: func(v *verify.Verified, _ *Set) { withFloor(v, event.FloorDisk, nil) }, want: wire.CodeRollback},
		"the floor is there":                        {before: had, change: func(v *verify.Verified, _ *Set) { withFloor(v, event.FloorNV, nil) }},
		"never had a floor":                         {change: func(v *verify.Verified, _ *Set) { withFloor(v, event.FloorAbsent, nil) }},
		"another bank before":                       {before: History{Bank: tpm2.TPMAlgSHA384}, want: wire.CodeSelection},
		"the same bank":                             {before: History{Bank: tpm2.TPMAlgSHA256}},
		"a stronger root of trust before":           {before: History{RootOfTrust: RootHardware.Strength()}, want: wire.CodeFirmware},
		"the same root of trust":                    {before: History{RootOfTrust: RootVirtual.Strength()}},
		"another bank, and the operator said so":    {before: History{Bank: tpm2.TPMAlgSHA384}, device: Device{Profiles: []string{"ovmf"}}},
		"a stronger root, and the operator said so": {before: History{RootOfTrust: RootHardware.Strength()}, device: Device{Profiles: []string{"ovmf"}}},
	} {
		t.Run(name, func(t *testing.T) {
			v, set := good(t)
			if c.change != nil {
				c.change(v, set)
			}
			a := set.Appraise(v, c.device, c.before)
			switch {
			case c.want == "" && len(a.Reasons) > 0:
				t.Errorf("denied: %v", a.Reasons)
			case c.want != "" && (len(a.Reasons) != 1 || a.Reasons[0].Code != c.want):
				t.Errorf("reasons %v, want %s alone", a.Reasons, c.want)
			}
			if name == "rollback" && (len(a.Reasons) == 0 || a.Reasons[0].Event != "os-2") {
				t.Errorf("reasons %v, want one about os-2", a.Reasons)
			}
		})
	}
}

// TestHistoryWithoutRules: what a device has proven counts also where the documents deny everything.
func TestHistoryWithoutRules(t *testing.T) {
	v, _ := good(t)
	a := new(Set).Appraise(v, Device{}, History{Bank: tpm2.TPMAlgSHA384})
	if len(a.Reasons) != 2 || a.Reasons[0].Code != wire.CodePolicy || a.Reasons[1].Code != wire.CodeSelection {
		t.Errorf("reasons %v", a.Reasons)
	}
}

// TestWeakerRootOfTrust takes the TPM of a machine into others.
func TestWeakerRootOfTrust(t *testing.T) {
	at := func(r RootOfTrust) History { return History{RootOfTrust: r.Strength()} }
	pinned := Device{Profiles: []string{"vm"}}
	for name, c := range map[string]struct {
		now    RootOfTrust
		before History
		device Device
		denied bool
	}{
		"first boot":         {now: RootVirtual},
		"the same":           {now: RootHardware, before: at(RootHardware)},
		"stronger":           {now: RootLocked, before: at(RootWritable)},
		"into a VM":          {now: RootVirtual, before: at(RootHardware), denied: true},
		"into open firmware": {now: RootWritable, before: at(RootLocked), denied: true},
		"operator says so":   {now: RootVirtual, before: at(RootHardware), device: pinned},
		"no root measured":   {before: at(RootHardware)},
	} {
		a := &Appraisal{Proven: at(c.now)}
		if c.now != "" {
			a.Profile = &Profile{RootOfTrust: c.now}
		}
		if weaker(a, c.device, c.before); (len(a.Reasons) > 0) != c.denied {
			t.Errorf("%s: %v", name, a.Reasons)
		}
	}
}

// TestOtherBank: what a device has proven in one bank is not taken from another.
func TestOtherBank(t *testing.T) {
	in := func(bank tpm2.TPMAlgID) History { return History{Bank: bank} }
	pinned := Device{Profiles: []string{"box"}}
	for name, c := range map[string]struct {
		now, before History
		device      Device
		denied      bool
	}{
		"first boot":       {now: in(tpm2.TPMAlgSHA384)},
		"the same":         {now: in(tpm2.TPMAlgSHA256), before: in(tpm2.TPMAlgSHA256)},
		"another":          {now: in(tpm2.TPMAlgSHA384), before: in(tpm2.TPMAlgSHA256), denied: true},
		"and back":         {now: in(tpm2.TPMAlgSHA256), before: in(tpm2.TPMAlgSHA384), denied: true},
		"operator says so": {now: in(tpm2.TPMAlgSHA384), before: in(tpm2.TPMAlgSHA256), device: pinned},
	} {
		a := &Appraisal{Proven: c.now}
		if otherBank(a, c.device, c.before); (len(a.Reasons) > 0) != c.denied {
			t.Errorf("%s: %v", name, a.Reasons)
		}
	}
}

// TestGoingBack: a floor whose versions fall is worth a look, unless a newer root of TUF has given the roles new keys.
func TestGoingBack(t *testing.T) {
	shown := func(root, timestamp string) History {
		v := &verify.Verified{AuthorityPCR: event.PCRAuthority}
		withFloor(v, event.FloorNV, map[string]string{"root": root, "timestamp": timestamp})
		return History{Floor: floorOf(v)}
	}
	before := shown("1", "900")
	for _, tc := range []struct{ root, timestamp, want string }{
		{"1", "900", ""},
		{"1", "899", "floor/root-1/timestamp 899, had shown 900 before"},
		{"2", "3", ""},
		{"0", "900", "floor/root 0, had shown 1 before"},
	} {
		got := wentBack(&Appraisal{Proven: shown(tc.root, tc.timestamp)}, before)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("root %s, timestamp %s: %q; want %q", tc.root, tc.timestamp, got, tc.want)
		}
	}
	unversioned := &Appraisal{Image: &Image{}}
	if got, want := wentBack(unversioned, History{ImageVersion: 7}), "went back: image 0, had shown 7 before"; got != want {
		t.Errorf("an image without a version: %q; want %q", got, want)
	}
}

// TestHistoryIsStored: the names of the numbers are in databases, and do not change.
func TestHistoryIsStored(t *testing.T) {
	numbers := map[string]int64{
		"healthy": 1, "image": 2, "root-of-trust": 3, "bank": 11,
		"floor/present": 1, "floor/image": 0, "floor/root": 4, "floor/root-4/timestamp": 5,
	}
	want := History{HealthyVersion: 1, ImageVersion: 2, RootOfTrust: 3, Bank: tpm2.TPMAlgSHA256, Floor: &FloorHistory{
		Present: true, Numbers: map[string]int64{"image": 0, "root": 4, "root-4/timestamp": 5},
	}}
	got := HistoryOf(numbers)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("history (-want +got):\n%s", d)
	}
	if !maps.Equal(got.Numbers(), numbers) {
		t.Errorf("numbers %v, want %v", got.Numbers(), numbers)
	}
	if n := (History{}).Numbers(); len(n) > 0 {
		t.Errorf("the history of a new device has numbers: %v", n)
	}
}
