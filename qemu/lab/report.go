package lab

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/measure/event"
)

// facts are what a run learns about itself.
type facts struct {
	layout, image string // the operating system's OCI layout, and its digest
	device        string // the machine's identity at attestd
	media         string // disk image of local media, if any
	boots         []*Boot
}

// summary prints what was predicted and what was found.
func (l *Lab) summary() {
	var rows [][]string
	for _, s := range l.stages.done {
		rows = append(rows, []string{s.Name, fmt.Sprintf("%.1f s", s.Took.Seconds())})
	}
	table(l.o.Out, "Stages", rows)
	for n, b := range l.facts.boots {
		table(l.o.Out, fmt.Sprintf("Loader, boot %d (the machine was on for %.1f s)", n+1, b.Took.Seconds()), b.stageRows())
	}
	table(l.o.Out, "PCR 12", l.pcrRows())
	table(l.o.Out, "Sizes", l.sizeRows())
	rows = nil
	if n := len(l.facts.boots); n > 0 {
		for _, line := range l.facts.boots[n-1].Demo() {
			rows = append(rows, []string{line})
		}
	}
	table(l.o.Out, "The operating system said in the last boot", rows)
	table(l.o.Out, "Kept for you", [][]string{
		{"consoles", l.path("vm", "console.log")},
		{"evidence", l.path("evidence")},
		{"site", l.site},
	})
}

// stageRows are the loader's stages, with their times and with what each said last.
func (b *Boot) stageRows() [][]string {
	var rows [][]string
	said := ""
	for _, e := range b.Events {
		switch e.Event {
		case "info":
			said = e.Text
		case "done":
			rows = append(rows, []string{e.Stage, fmt.Sprintf("%.1f s", e.Took), said})
			said = ""
		}
	}
	return rows
}

// reference is the image's, as it was predicted.
func (l *Lab) reference() *policy.Image {
	raw, err := os.ReadFile(l.path("image.json"))
	if err != nil {
		return nil
	}
	doc, err := policy.Parse(raw)
	if err != nil {
		return nil
	}
	image, _ := doc.(*policy.Image)
	return image
}

// predicted is PCR 12 when the machine is attested.
func (l *Lab) predicted() string {
	if image := l.reference(); image != nil {
		return image.Attested["sha256"]
	}
	return ""
}

// pcrRows compares the image PCR as predicted with the one that was quoted.
func (l *Lab) pcrRows() [][]string {
	image := l.reference()
	if image == nil {
		return nil
	}
	rows := [][]string{
		{"predicted, when attested", image.Attested["sha256"]},
		{"predicted, after the cap", image.Capped["sha256"]},
	}
	for _, phase := range []wire.Phase{wire.PhaseBoot, wire.PhaseRenew} {
		if found := l.quoted(phase, event.PCRImage); found != "" {
			rows = append(rows, []string{"quoted, phase " + string(phase), found})
		}
	}
	return rows
}

// quoted is the value of a PCR in the evidence that attestd kept.
func (l *Lab) quoted(phase wire.Phase, pcr int) string {
	_, e, err := l.evidence(phase)
	if err != nil {
		return ""
	}
	challenge, err := challengeOf(e)
	if err != nil {
		return ""
	}
	if i := slices.Index(challenge.PCRs, pcr); i >= 0 {
		return hex.EncodeToString(e.PCRValues[i])
	}
	return ""
}

// evidence finds what attestd kept of the machine's last exchange in a phase.
func (l *Lab) evidence(phase wire.Phase) (string, *wire.Evidence, error) {
	files, err := filepath.Glob(l.path("evidence", l.facts.device+"*-"+string(phase)+".json"))
	if err != nil || len(files) == 0 {
		return "", nil, fmt.Errorf("attestd kept no evidence of phase %s in %s", phase, l.path("evidence"))
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		return "", nil, err
	}
	var e wire.Evidence
	if err := wire.Unmarshal(raw, &e); err != nil {
		return "", nil, err
	}
	return files[0], &e, nil
}

func (l *Lab) sizeRows() [][]string {
	b, err := board.Open(l.loader)
	if err != nil {
		return nil
	}
	kib := func(n int64) string { return fmt.Sprintf("%.0f KiB", float64(n)/1024) }
	return [][]string{
		{"kernel", kib(b.Kernel.Size)},
		{"initramfs", kib(b.Initramfs.Size)},
		{"together", kib(b.Kernel.Size + b.Initramfs.Size), "of " + kib(board.Budget)},
		{"UKI", kib(b.UKI.Size), "sha256:" + b.UKI.SHA256},
		{"image", strings.TrimSpace(l.facts.image)},
	}
}
