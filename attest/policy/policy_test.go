package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/keys"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/cel"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/golden"
	"github.com/sealboot/sealboot/measure/pcr"
)

var banks = []tpm2.TPMAlgID{tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384}

func digestOf(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }

func firmwareLog(t testing.TB) *fwlog.Log {
	t.Helper()
	raw, err := os.ReadFile("../../measure/fwlog/testdata/ovmf-uki.bin")
	if err != nil {
		t.Fatal(err)
	}
	log, err := fwlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// loaderOf makes the reference of the loader in a log, as a prediction would.
func loaderOf(log *fwlog.Log) *Loader {
	l := &Loader{Header: Header{Version, KindLoader, "loader-1"}, SiteConfig: digestOf("site"), ReleaseKey: "000b" + digestOf("release")}
	for _, e := range log.Events {
		switch {
		case e.PCR == loaderPCR && e.Type == fwlog.EventEFIBootServicesApp:
			l.PCR4 = append(l.PCR4, DigestsOf(e.Digests))
		case e.PCR == stubPCR:
			l.PCR11 = append(l.PCR11, DigestsOf(e.Digests))
		}
	}
	return l
}

func descriptor(kernel string) event.Descriptor {
	return event.Descriptor{Kind: event.KindLinux, Artifacts: []event.Artifact{
		{Role: event.RoleKernel, SHA256: digestOf(kernel), Size: 6},
		{Role: event.RoleInitrd, SHA256: digestOf("initrd"), Size: 6},
		{Role: event.RoleCmdline, SHA256: digestOf("cmdline"), Size: 7},
	}}
}

func newImage(t testing.TB, name, kernel string, version uint64) *Image {
	t.Helper()
	i, err := NewImage(name, "registry.example/os:"+name, version, descriptor(kernel), banks)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func authorityRecords() []event.Record {
	return []event.Record{
		{Type: event.TypeHostConfig, SHA256: digestOf("host")},
		{Type: event.TypeSiteConfig, SHA256: digestOf("site")},
		{Type: event.TypeProvenance, Name: "oci", SHA256: digestOf("manifest"), Detail: map[string]string{"keys": "k1,k2"}},
		{Type: event.TypeReleaseKey, Detail: map[string]string{"name": "000b" + digestOf("release")}},
		{Type: event.TypeClock, Name: "attestd"},
		{Type: event.TypeFloor},
	}
}

// good returns a device that booted as it should, and the policy that says so.
func good(t testing.TB) (*verify.Verified, *Set) {
	t.Helper()
	log := firmwareLog(t)
	loader := loaderOf(log)
	profile, err := RecordProfile("ovmf", RootVirtual, log, loader)
	if err != nil {
		t.Fatal(err)
	}
	image := newImage(t, "os-2", "kernel", 2)
	set := &Set{}
	for _, d := range []Document{loader, profile, newImage(t, "os-1", "old kernel", 1), image, DefaultRules("rules", RootVirtual)} {
		set.Add(d)
	}
	v := &verify.Verified{
		Device: &wire.Device{Phase: wire.PhaseBoot}, ImagePCR: event.PCRImage, AuthorityPCR: event.PCRAuthority,
		Firmware: log.Events, PCRs: keys.PCRs{Bank: tpm2.TPMAlgSHA256, Index: []int{0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13}},
	}
	for _, r := range image.Records {
		v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: r})
	}
	for _, r := range authorityRecords() {
		v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRAuthority, Record: r})
	}
	values, err := log.Replay(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range v.PCRs.Index {
		if values[i] == nil {
			values[i] = pcr.Zero(tpm2.TPMAlgSHA256)
		}
		v.PCRs.Values = append(v.PCRs.Values, values[i])
	}
	return v, set
}

// TestRenewalRoot has two platforms that differ in PCR 3 alone, which a renewal does not quote: it counts as of the one
// with the stronger root of trust, so that no one is denied for a likeness.
func TestRenewalRoot(t *testing.T) {
	v, set := good(t)
	twin := *set.Profiles[0]
	twin.Name, twin.RootOfTrust = "twin", RootHardware
	twin.Rules = slices.DeleteFunc(slices.Clone(twin.Rules), func(r PCRRule) bool { return r.PCR == 3 })
	twin.Rules = append(twin.Rules, PCRRule{PCR: 3, Match: MatchSequence, Events: []ProfileEvent{{Digests: []Digests{{"sha256": digestOf("other")}}}}})
	set.Add(&twin)
	set.Add(DefaultRules("rules", RootVirtual, RootHardware))
	if a := set.Appraise(v, Device{}, History{}); len(a.Reasons) > 0 || a.Profile.RootOfTrust != RootVirtual {
		t.Fatalf("boot: %v, %v", a.Profile, a.Reasons)
	}
	v.Device.Phase = wire.PhaseRenew
	quoted := keys.PCRs{Bank: v.PCRs.Bank}
	for _, index := range []int{0, 2, 4, 7, 12, 13} {
		value, _ := v.PCR(index)
		quoted.Index, quoted.Values = append(quoted.Index, index), append(quoted.Values, value)
	}
	v.PCRs = quoted
	v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.CapRecord()})
	if a := set.Appraise(v, Device{}, History{}); len(a.Reasons) > 0 || a.Profile.RootOfTrust != RootHardware {
		t.Errorf("renewal: %v, %v; want the stronger platform", a.Profile, a.Reasons)
	}
}

// TestRecordProfileRefusesOtherPrograms has a reference machine that went through the firmware's shell.
func TestRecordProfileRefusesOtherPrograms(t *testing.T) {
	log := firmwareLog(t)
	loader := loaderOf(log)
	for i, e := range log.Events {
		if e.PCR == 4 && e.Type == fwlog.EventSeparator {
			shell := e
			shell.Type, shell.Digests = fwlog.EventEFIBootServicesApp, map[tpm2.TPMAlgID][]byte{}
			for _, bank := range log.Banks {
				shell.Digests[bank] = bytes.Repeat([]byte{0x5e}, len(pcr.Zero(bank)))
			}
			log.Events = slices.Insert(log.Events, i, shell)
			break
		}
	}
	if p, err := RecordProfile("shell", RootVirtual, log, loader); err == nil {
		t.Errorf("a profile that lets every machine run that shell: %+v", p.Rules)
	}
}

func TestAppraiseGood(t *testing.T) {
	v, set := good(t)
	a := set.Appraise(v, Device{Images: []string{"os-2"}, Profiles: []string{"ovmf"}}, History{HealthyVersion: 2})
	if len(a.Reasons) != 0 || a.Image == nil || a.Image.Name != "os-2" || a.Loader == nil || a.Profile == nil {
		t.Errorf("Appraise() = %+v", a)
	}
	// In the OS: the cap at the end, PCR 11 not quoted and extended since.
	v.Device.Phase = wire.PhaseRenew
	v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.CapRecord()})
	v.PCRs.Index, v.PCRs.Values = []int{0, 2, 4, 7, 12, 13}, v.PCRs.Values[:6]
	v.Firmware = slices.DeleteFunc(slices.Clone(v.Firmware), func(e fwlog.Event) bool { return e.PCR == stubPCR })
	if a := set.Appraise(v, Device{}, History{}); len(a.Reasons) != 0 {
		t.Errorf("renewal: %v", a.Reasons)
	}
}

// edit replaces one record of the loader's log.
func edit(v *verify.Verified, t event.Type, name string, change func(*event.Record)) {
	v.Loader = slices.Clone(v.Loader)
	for i := range v.Loader {
		if r := &v.Loader[i].Record; r.Type == t && r.Name == name {
			change(r)
			return
		}
	}
	panic("no such record")
}

// firmwareEvent changes the digest of one firmware event.
func firmwareEvent(v *verify.Verified, num int, digest string) {
	v.Firmware = slices.Clone(v.Firmware)
	for i := range v.Firmware {
		if v.Firmware[i].Num == num {
			sum := sha256.Sum256([]byte(digest))
			v.Firmware[i].Digests = map[tpm2.TPMAlgID][]byte{tpm2.TPMAlgSHA256: sum[:], tpm2.TPMAlgSHA384: v.Firmware[i].Digests[tpm2.TPMAlgSHA384]}
		}
	}
}

func TestAppraiseDenies(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*verify.Verified, *Set, *Device)
		code   wire.Code
		event  string
	}{
		"no rules":  {func(_ *verify.Verified, s *Set, _ *Device) { s.Rules = nil }, wire.CodePolicy, ""},
		"no images": {func(_ *verify.Verified, s *Set, _ *Device) { s.Images = nil }, wire.CodeImage, ""},
		"other kernel": {func(v *verify.Verified, _ *Set, _ *Device) {
			edit(v, event.TypeArtifact, event.RoleKernel, func(r *event.Record) { r.SHA256 = digestOf("evil") })
		}, wire.CodeImage, "artifact kernel"},
		"kernel of another size": {func(v *verify.Verified, _ *Set, _ *Device) {
			edit(v, event.TypeArtifact, event.RoleKernel, func(r *event.Record) { r.Size++ })
		}, wire.CodeImage, "artifact kernel"},
		"other command line": {func(v *verify.Verified, _ *Set, _ *Device) {
			edit(v, event.TypeArtifact, event.RoleCmdline, func(r *event.Record) { r.SHA256 = digestOf("init=/bin/sh") })
		}, wire.CodeImage, "artifact cmdline"},
		"a record more": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.Record{Type: event.TypeArtifact, Name: event.RoleDTB}})
		}, wire.CodeImage, "artifact dtb"},
		"a record less": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = slices.DeleteFunc(v.Loader, func(e cel.Entry) bool { return e.Record.Name == event.RoleCmdline })
		}, wire.CodeImage, "artifact cmdline"},
		"nothing measured": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = slices.DeleteFunc(v.Loader, func(e cel.Entry) bool { return e.PCR == event.PCRImage })
		}, wire.CodeImage, "boot-descriptor linux"},
		"cap at boot": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.CapRecord()})
		}, wire.CodeImage, "cap"},
		"unverified disk": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.Record{Type: event.TypeDiskUnverified}})
		}, wire.CodeUnverified, "disk-unverified"},
		"image of another device": {func(_ *verify.Verified, _ *Set, d *Device) { d.Images = []string{"os-1"} }, wire.CodeImage, ""},
		"no endorsement": {func(v *verify.Verified, _ *Set, d *Device) {
			d.RequireEndorsement, v.Endorsement = true, verify.ErrNoCertificate
		}, wire.CodeEK, ""},
		"all zero": {func(v *verify.Verified, _ *Set, _ *Device) {
			for i := range 8 {
				v.PCRs.Values[i] = pcr.Zero(tpm2.TPMAlgSHA256)
			}
			v.Firmware = nil
		}, wire.CodeUnmeasured, ""},
		"other loader": {func(v *verify.Verified, _ *Set, _ *Device) { firmwareEvent(v, 25, "evil UKI") }, wire.CodeLoader,
			"#25 EV_EFI_BOOT_SERVICES_APPLICATION"},
		"other section":  {func(v *verify.Verified, _ *Set, _ *Device) { firmwareEvent(v, 31, "init=/bin/sh") }, wire.CodeLoader, "#31 EV_IPL .cmdline"},
		"other firmware": {func(v *verify.Verified, _ *Set, _ *Device) { firmwareEvent(v, 2, "evil") }, wire.CodeFirmware, "#2 EV_EFI_PLATFORM_FIRMWARE_BLOB"},
		"secure boot off": {func(v *verify.Verified, _ *Set, _ *Device) { firmwareEvent(v, 4, "off") }, wire.CodeFirmware,
			"#4 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot"},
		"driver in PCR 4": {func(v *verify.Verified, _ *Set, _ *Device) { firmwareEvent(v, 23, "evil") }, wire.CodeFirmware,
			"#23 EV_EFI_ACTION Returning from EFI Application from Boot Option"},
		"loader twice": {func(v *verify.Verified, _ *Set, _ *Device) {
			for _, e := range slices.Clone(v.Firmware) {
				if e.PCR == 4 {
					v.Firmware = append(v.Firmware, e)
				}
			}
		}, wire.CodeLoader, "#34 EV_EFI_BOOT_SERVICES_APPLICATION"},
		"PCR without a rule": {func(_ *verify.Verified, s *Set, _ *Device) {
			s.Profiles[0].Rules = slices.DeleteFunc(s.Profiles[0].Rules, func(r PCRRule) bool { return r.PCR == 3 })
		}, wire.CodeFirmware, "#19 EV_SEPARATOR"},
		"profile of another device": {func(_ *verify.Verified, _ *Set, d *Device) { d.Profiles = []string{"other"} }, wire.CodeFirmware, ""},
		"root of trust refused":     {func(_ *verify.Verified, s *Set, _ *Device) { s.Rules.RootsOfTrust = []RootOfTrust{RootHardware} }, wire.CodeFirmware, "ovmf"},
		"other site config": {func(v *verify.Verified, _ *Set, _ *Device) {
			edit(v, event.TypeSiteConfig, "", func(r *event.Record) { r.SHA256 = digestOf("evil") })
		}, wire.CodeAuthority, "site-config"},
		"other release key": {func(v *verify.Verified, _ *Set, _ *Device) {
			edit(v, event.TypeReleaseKey, "", func(r *event.Record) { r.Detail = map[string]string{"name": "000b" + digestOf("evil")} })
		}, wire.CodeAuthority, "release-key"},
		"no clock": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = slices.DeleteFunc(v.Loader, func(e cel.Entry) bool { return e.Record.Type == event.TypeClock })
		}, wire.CodeAuthority, "clock"},
		"clock refused": {func(_ *verify.Verified, s *Set, _ *Device) { s.Rules.Authority[4].Names = []string{"metadata"} }, wire.CodeAuthority, "clock attestd"},
		"signer refused": {func(_ *verify.Verified, s *Set, _ *Device) {
			s.Rules.Authority[2].Detail = map[string][]string{"keys": {"k3"}}
		}, wire.CodeAuthority, "provenance oci"},
		"record twice": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRAuthority, Record: event.Record{Type: event.TypeFloor}})
		}, wire.CodeAuthority, "floor"},
		"record out of order": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRAuthority, Record: event.Record{Type: event.TypeSiteConfig, SHA256: digestOf("site")}})
		}, wire.CodeAuthority, "site-config"},
		"foreign record": {func(v *verify.Verified, _ *Set, _ *Device) {
			v.Loader = append([]cel.Entry{{PCR: event.PCRAuthority, Record: event.Record{Type: event.TypeShell}}}, v.Loader...)
		}, wire.CodeAuthority, "shell"},
	} {
		t.Run(name, func(t *testing.T) {
			v, set := good(t)
			var d Device
			c.change(v, set, &d)
			a := set.Appraise(v, d, History{})
			if len(a.Reasons) == 0 || a.Reasons[0].Code != c.code || a.Reasons[0].Event != c.event {
				t.Errorf("reasons %v, want %s about %q first", a.Reasons, c.code, c.event)
			}
		})
	}
}

// TestUnquotedBankIsNotBelieved: the log's digests of a bank that was not quoted are the attacker's to write.
func TestUnquotedBankIsNotBelieved(t *testing.T) {
	v, set := good(t)
	for _, p := range set.Profiles {
		for i := range p.Rules {
			for j := range p.Rules[i].Events {
				for _, d := range p.Rules[i].Events[j].Digests {
					delete(d, "sha256") // a profile that knows SHA-384 only
				}
			}
		}
	}
	if a := set.Appraise(v, Device{}, History{}); len(a.Reasons) == 0 || a.Reasons[0].Code != wire.CodeFirmware {
		t.Errorf("accepted digests of a bank that was not quoted: %v", a.Reasons)
	}
}

func TestAllowances(t *testing.T) {
	v, set := good(t)
	v.Loader = append(v.Loader, cel.Entry{PCR: event.PCRImage, Record: event.Record{Type: event.TypeDiskUnverified}})
	set.Rules.AllowUnverifiedDisk = true
	set.Rules.Authority[2].Detail = map[string][]string{"keys": {"k3", "k2"}}
	if a := set.Appraise(v, Device{}, History{}); len(a.Reasons) != 0 {
		t.Errorf("allowed, but: %v", a.Reasons)
	}
	for i := range 8 {
		v.PCRs.Values[i] = pcr.Zero(tpm2.TPMAlgSHA256)
	}
	v.Firmware = nil
	if a := set.Appraise(v, Device{AllowUnmeasured: true}, History{}); len(a.Reasons) != 0 {
		t.Errorf("unmeasured and allowed, but: %v", a.Reasons)
	}
}

// TestGolden pins the file formats: what is written today must be read for ever.
func TestGolden(t *testing.T) {
	_, set := good(t)
	for name, d := range map[string]Document{
		"image": set.Images[1], "loader": set.Loaders[0], "profile": set.Profiles[0], "rules": set.Rules,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "testdata/"+name+".json", string(got))
			back, err := Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, back); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	_, set := good(t)
	text := map[Kind]string{}
	for _, d := range []Document{set.Images[1], set.Loaders[0], set.Profiles[0], set.Rules} {
		raw, err := Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		text[d.header().Kind] = string(raw)
	}
	for name, c := range map[string]struct {
		kind     Kind
		old, new string
	}{
		"unknown field":          {KindImage, `"ref":`, `"reff":`},
		"repeated field":         {KindImage, `"ref":`, `"name": "x", "ref":`},
		"repeated in other case": {KindImage, `"ref":`, `"Name": "x", "ref":`},
		"something behind":       {KindImage, "\n}\n", "\n}\n{}"},
		"other version":          {KindImage, `"version": 1`, `"version": 2`},
		"unknown kind":           {KindImage, `"kind": "image"`, `"kind": "picture"`},
		"value does not follow":  {KindImage, `"sha256": "` + set.Images[1].Attested["sha256"], `"sha256": "` + set.Images[1].Capped["sha256"]},
		"records contradict":     {KindImage, digestOf("kernel"), digestOf("other")},
		"bad digest":             {KindLoader, digestOf("site"), "abc"},
		"name with a space":      {KindLoader, `"loader-1"`, `"loader 1"`},
		"bad Name":               {KindLoader, `"000b`, `"000c`},
		"no loader digests":      {KindLoader, `"pcr4"`, `"pcr5"`},
		"root of trust":          {KindProfile, `"virtual"`, `"good"`},
		"PCR 0 ignored":          {KindProfile, `"pcr": 0,` + "\n" + `      "match": "sequence"`, `"pcr": 0,` + "\n" + `      "match": "any"`},
		"PCR 1 exact":            {KindProfile, `"pcr": 1,` + "\n" + `      "match": "any"`, `"pcr": 1,` + "\n" + `      "match": "set"`},
		"PCR twice":              {KindProfile, `"pcr": 3`, `"pcr": 2`},
		"PCR of ours":            {KindProfile, `"pcr": 3`, `"pcr": 12`},
		"rule for the cap":       {KindRules, `"type": "clock"`, `"type": "cap"`},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(text[c.kind], c.old, c.new, 1)
			if changed == text[c.kind] {
				t.Fatal("nothing was changed")
			}
			if _, err := Parse([]byte(changed)); !errors.Is(err, ErrFormat) {
				t.Errorf("Parse() = %v, want ErrFormat", err)
			}
		})
	}
}

func TestSignedDocument(t *testing.T) {
	_, set := good(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Marshal(set.Rules)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(key, raw)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(&key.PublicKey, signed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Document(set.Rules), d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	changed := strings.Replace(string(signed), `"virtual"`, `"writable"`, 1)
	if _, err := Open(&key.PublicKey, []byte(changed)); !errors.Is(err, ErrSignature) {
		t.Errorf("a changed document gives %v, want ErrSignature", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(&other.PublicKey, signed); !errors.Is(err, ErrSignature) {
		t.Errorf("another key gives %v, want ErrSignature", err)
	}
}

func FuzzParse(f *testing.F) {
	_, set := good(f)
	for _, d := range []Document{set.Images[0], set.Loaders[0], set.Rules} {
		raw, err := Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Marshal(d)
		if err != nil {
			t.Fatalf("parsed, but cannot be written: %v", err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("written, but cannot be read: %v", err)
		}
	})
}
