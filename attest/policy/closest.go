package policy

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/fwlog"
	"github.com/sealboot/sealboot/measure/pcr"
)

// A denial is worth little unless it names what differs. So what no one knows is compared with the reference that has
// most in common with it; between equals with the newest, which is the last.

// imageReason names the first artifact that differs from the closest image.
func (s *Set) imageReason(v *verify.Verified, found []event.Record) wire.Reason {
	r := wire.Reason{Code: wire.CodeImage, PCR: wire.At(v.ImagePCR)}
	var closest *Image
	most, shown := 0, artifactsOf(found)
	for _, image := range s.Images {
		if n := countSame(image.Records, shown); n >= most {
			closest, most = image, n
		}
	}
	if closest == nil {
		r.Detail = "this site knows no image; add one with sealboot predict and sealboot policy"
		return r
	}
	i := firstDifference(closest.Records, found)
	reference := "reference " + closest.Name
	switch {
	case i >= len(found) || i < len(closest.Records) && missing(closest.Records[i], found):
		r.Event, r.Expected, r.Found = nameOf(closest.Records, i), content(closest.Records[i]), "nothing"
		r.Detail = "missing, " + reference + " has it"
	case i >= len(closest.Records) || missing(found[i], closest.Records):
		r.Event, r.Found, r.Detail = nameOf(found, i), content(found[i]), "not in "+reference
	default:
		r.Event, r.Expected, r.Found = nameOf(found, i), content(closest.Records[i]), content(found[i])
		r.Detail = "differs from " + reference
	}
	return r
}

// artifactsOf is the set of artifacts in a list. Evidence may show thousands, and a site know hundreds of images: who
// makes up such a log must not make attestd compare each with each.
func artifactsOf(records []event.Record) map[event.Artifact]bool {
	set := map[event.Artifact]bool{}
	for _, r := range records {
		if r.Type == event.TypeArtifact && len(r.Detail) == 0 {
			set[event.Artifact{Role: r.Name, SHA256: r.SHA256, Size: r.Size}] = true
		}
	}
	return set
}

// countSame counts the artifacts of an image that were shown, wherever they stand.
func countSame(image []event.Record, shown map[event.Artifact]bool) int {
	n := 0
	for _, r := range image {
		if r.Type == event.TypeArtifact && shown[event.Artifact{Role: r.Name, SHA256: r.SHA256, Size: r.Size}] {
			n++
		}
	}
	return n
}

// firstDifference is the place of the first record that is not the same. The boot descriptor, which differs whenever
// anything does, is looked at last.
func firstDifference(want, found []event.Record) int {
	if len(found) == 0 || found[0].Type != event.TypeBootDescriptor {
		return 0
	}
	for i := 1; i < max(len(want), len(found)); i++ {
		if i >= len(want) || i >= len(found) || !sameRecord(want[i], found[i]) {
			return i
		}
	}
	return 0
}

// missing tells whether a list has no record of this type and name.
func missing(r event.Record, list []event.Record) bool {
	return !slices.ContainsFunc(list, func(o event.Record) bool { return o.Type == r.Type && o.Name == r.Name })
}

// nameOf names a record; layers, of which there are many, are counted from 1.
func nameOf(records []event.Record, i int) string {
	name := verify.Describe(records[i])
	if records[i].Name != event.RoleLayer {
		return name
	}
	n := 0
	for _, r := range records[:i+1] {
		if r.Name == event.RoleLayer {
			n++
		}
	}
	return fmt.Sprintf("%s %d", name, n)
}

// content is what a record says of what it names.
func content(r event.Record) string {
	switch {
	case r.SHA256 == "":
		return verify.Describe(r)
	case r.Size == 0:
		return "sha256:" + r.SHA256
	}
	return fmt.Sprintf("sha256:%s (%d bytes)", r.SHA256, r.Size)
}

// loaderReason says how what was started differs from the closest loader: the section of the UKI, as the boot stub
// measured it, or else the file as firmware did.
func (s *Set) loaderReason(v *verify.Verified, found []fwlog.Event) wire.Reason {
	bank := v.PCRs.Bank
	r := wire.Reason{Code: wire.CodeLoader, PCR: wire.At(loaderPCR), Found: "nothing",
		Detail: "no loader is registered; add its reference with sealboot predict and sealboot policy"}
	var closest *Loader
	most := 0
	for _, l := range s.Loaders {
		if n := l.countSame(v, found); n >= most {
			closest, most = l, n
		}
	}
	for _, e := range slices.Backward(found) {
		if e.Type == fwlog.EventEFIBootServicesApp && (closest == nil || r.Event == "" || !closest.starts(e, bank)) {
			r.Event, r.Found = verify.DescribeFirmware(e), digestIn(e, bank)
		}
	}
	if closest == nil {
		return r
	}
	if stub := closest.compareStub(v); stub != nil {
		stub.Event = describeSection(closest, eventsOf(v.Firmware, stubPCR), stub.Event, bank)
		stub.Detail = "differs from loader " + closest.Name
		return *stub
	}
	r.Expected = references(closest.PCR4)[0].describe(bank)
	r.Detail = "not exactly what loader " + closest.Name + " starts"
	return r
}

// countSame counts the digests of a loader that were measured at their places.
func (l *Loader) countSame(v *verify.Verified, started []fwlog.Event) int {
	n := 0
	for i, e := range eventsOf(v.Firmware, stubPCR) {
		if i < len(l.PCR11) && l.PCR11[i].is(v.PCRs.Bank, e) {
			n++
		}
	}
	for _, e := range started {
		if l.starts(e, v.PCRs.Bank) {
			n++
		}
	}
	return n
}

// starts tells whether an event of PCR 4 is one of this loader's.
func (l *Loader) starts(e fwlog.Event, bank tpm2.TPMAlgID) bool {
	return slices.ContainsFunc(l.PCR4, func(d Digests) bool { return d.is(bank, e) })
}

// describeSection adds the name of the UKI's section to that of the first event of PCR 11 that differs. The stub
// measures name and content in turn, so the name is proven where the data of the event is not.
func describeSection(l *Loader, found []fwlog.Event, text string, bank tpm2.TPMAlgID) string {
	i := 0
	for i < len(found) && i < len(l.PCR11) && l.PCR11[i].is(bank, found[i]) {
		i++
	}
	at := i &^ 1
	var digest []byte
	switch {
	case at < len(found):
		digest = found[at].Digests[bank]
	case at < len(l.PCR11):
		digest, _ = hex.DecodeString(l.PCR11[at][pcr.BankName(bank)]) // checked when it was parsed
	}
	for _, name := range []string{
		".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".dtbauto", ".uname", ".sbat", ".pcrpkey", ".profile",
	} {
		if d, err := pcr.Digest(bank, append([]byte(name), 0)); err == nil && bytes.Equal(d, digest) {
			return text + " " + name
		}
	}
	return text
}

// digestIn is the digest of an event in one bank.
func digestIn(e fwlog.Event, bank tpm2.TPMAlgID) string {
	return pcr.BankName(bank) + ":" + hex.EncodeToString(e.Digests[bank])
}
