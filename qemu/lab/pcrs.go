package lab

import (
	"encoding/hex"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/measure/pcr"
)

// pcrRow is one PCR as it was predicted and as it was quoted.
type pcrRow struct {
	name             string
	predicted, found string // SHA-256 in hex; nothing predicted means that its events are judged
	by               string // what says what it should be
}

// anything stands for a PCR that no one compares.
const anything = "differs between machines"

// printPCRs compares what was predicted with what the TPM has signed.
func (l *Lab) printPCRs() {
	rows := [][]string{{"", "predicted", "quoted", ""}}
	for _, r := range l.pcrRows() {
		same := "same: "
		switch {
		case r.predicted == "" && r.by == anything:
			same, r.predicted = "", "-"
		case r.predicted == "":
			same, r.predicted = "", "by its events"
		case r.predicted != r.found:
			same = "DIFFERENT: "
		}
		rows = append(rows, []string{r.name, fmt.Sprintf("%.16s", r.predicted), fmt.Sprintf("%.16s", r.found), same + r.by})
	}
	table(l.o.Out, "PCRs of the last boot, SHA-256 (beginnings)", rows)
}

// pcrRows are the PCRs of the last boot, and PCR 12 again after the cap.
func (l *Lab) pcrRows() []pcrRow {
	loader, profile, image := l.document("loader.json"), l.document("profile.json"), l.reference()
	var rows []pcrRow
	for n := range event.PCRAuthority + 1 {
		found := l.quoted(wire.PhaseBoot, n)
		if found == "" {
			continue
		}
		r := pcrRow{name: fmt.Sprintf("%2d", n), found: found, by: "firmware profile"}
		switch {
		case n <= 7:
			p, _ := profile.(*policy.Profile)
			ld, _ := loader.(*policy.Loader)
			r.predicted = firmwarePCR(p, ld, n)
			if r.predicted == "" {
				r.by = anything
			}
			if n == 4 {
				r.by += " and loader"
			}
		case n == 11:
			if ld, ok := loader.(*policy.Loader); ok {
				r.predicted, r.by = extended(ld.PCR11), "loader"
			}
		case n == event.PCRImage && image != nil:
			r.predicted, r.by = image.Attested["sha256"], "image, when attested"
		case n == event.PCRAuthority:
			r.by = "rules"
		}
		rows = append(rows, r)
	}
	if found := l.quoted(wire.PhaseRenew, event.PCRImage); found != "" && image != nil {
		rows = append(rows, pcrRow{"12", image.Capped["sha256"], found, "image, after the cap"})
	}
	return rows
}

// firmwarePCR is what a profile says of one PCR, with the loader in its place;
// empty if it says nothing exact.
func firmwarePCR(p *policy.Profile, loader *policy.Loader, n int) string {
	if p == nil || loader == nil {
		return ""
	}
	for _, rule := range p.Rules {
		if rule.PCR != n || rule.Match == policy.MatchAny {
			continue
		}
		var all []policy.Digests
		for _, e := range rule.Events {
			if e.Loader {
				all = append(all, loader.PCR4...)
			} else {
				all = append(all, e.Digests[0])
			}
		}
		return extended(all)
	}
	return ""
}

// extended is a PCR after these events.
func extended(events []policy.Digests) string {
	values := pcr.Values{}
	for _, e := range events {
		digest, err := hex.DecodeString(e["sha256"])
		if err == nil {
			err = values.Extend(tpm2.TPMAlgSHA256, 0, digest)
		}
		if err != nil {
			return ""
		}
	}
	return hex.EncodeToString(values[0])
}

// document is a policy document of the site as it was added, or nil.
func (l *Lab) document(name string) policy.Document {
	raw, err := os.ReadFile(l.path(name))
	if err != nil {
		return nil
	}
	doc, err := policy.Parse(raw)
	if err != nil {
		return nil
	}
	return doc
}
