package lab

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/board"
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
	out := l.o.Out
	rows, total := [][]string(nil), time.Duration(0)
	for _, s := range l.stages.done {
		rows = append(rows, []string{s.Name, fmt.Sprintf("%6.1f s", s.Took.Seconds())})
		total += s.Took
	}
	table(out, "Stages", append(rows, []string{"together", fmt.Sprintf("%6.1f s", total.Seconds())}))
	l.printLoader()
	l.printPCRs()
	table(out, "Result", l.resultRows())
	table(out, "Sizes", l.sizeRows())
	table(out, "Kept", [][]string{
		{"consoles", l.path("vm", "console.log")},
		{"evidence", l.path("evidence") + ", for other tools in " + l.path("verify")},
		{"site", l.site},
	})
}

// printLoader prints what the loader did, stage by stage, a column for each boot.
func (l *Lab) printLoader() {
	rows := [][]string{{""}}
	index := make(map[string]int)
	for n, b := range l.facts.boots {
		rows[0] = append(rows[0], fmt.Sprintf("   boot %d", n+1))
		for _, c := range b.cost() {
			i, ok := index[c.name]
			if !ok {
				i = len(rows)
				index[c.name], rows = i, append(rows, []string{c.name})
			}
			for len(rows[i]) <= n { // it did not happen in an earlier boot
				rows[i] = append(rows[i], "")
			}
			rows[i] = append(rows[i], fmt.Sprintf("%9s", c.value))
		}
	}
	table(l.o.Out, "Loader", rows)
}

// cost is one thing that a boot took.
type cost struct{ name, value string }

// cost is what the loader took, and how long the machine was on.
func (b *Boot) cost() []cost {
	var all []cost
	for _, s := range b.stages() {
		all = append(all, cost{s.name, fmt.Sprintf("%.1f s", s.took)})
	}
	all = append(all, cost{"fetched", mib(b.Fetched())})
	if load := b.Load(); load != nil {
		all = append(all, cost{"peak memory", mib(load.Peak)})
	}
	return append(all, cost{"machine on", fmt.Sprintf("%.1f s", b.Took.Seconds())})
}

// stageTook is how long a stage of the loader took, in seconds.
type stageTook struct {
	name string
	took float64
}

// stages are the loader's, each with all the times that it was entered.
func (b *Boot) stages() []stageTook {
	var all []stageTook
	for _, e := range b.Events {
		if e.Event != "done" {
			continue
		}
		i := slices.IndexFunc(all, func(s stageTook) bool { return s.name == e.Stage })
		if i < 0 {
			i, all = len(all), append(all, stageTook{name: e.Stage})
		}
		all[i].took += e.Took
	}
	return all
}

// Fetched is how many bytes of images arrived, in all stages together.
func (b *Boot) Fetched() int64 {
	var sum, last int64
	for _, e := range b.Events {
		if e.Event != "progress" || e.What != "fetched" {
			continue
		}
		if e.Done < last { // another source begins
			sum += last
		}
		last = e.Done
	}
	return sum + last
}

// Load is what it took to give the kernel to the kernel.
type Load struct {
	Took time.Duration
	Peak int64 // the most memory in use meanwhile, bytes
}

var loadedLine = regexp.MustCompile(`^kernel loaded in ([0-9.]+) s, peak memory ([0-9]+) MiB$`)

// Load is what the loader said of it, or nil.
func (b *Boot) Load() *Load {
	for _, e := range b.Events {
		m := loadedLine.FindStringSubmatch(e.Text)
		if m == nil {
			continue
		}
		took, err1 := time.ParseDuration(m[1] + "s")
		peak, err2 := strconv.ParseInt(m[2], 10, 43)
		if err1 == nil && err2 == nil {
			return &Load{took, peak << 20}
		}
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// resultRows are what the site knows of the machine, and what its operating system said.
func (l *Lab) resultRows() [][]string {
	var rows [][]string
	if d, err := l.knownDevice(context.Background()); err == nil {
		for _, s := range []store.Status{d.Confirmed, d.Attempt} {
			if s.Phase != "" {
				rows = append(rows, []string{"verdict", fmt.Sprintf("%s, phase %s: image %s version %d", s.Verdict, s.Phase, s.Image, s.Version)})
			}
		}
	}
	if n := len(l.facts.boots); n > 0 {
		for _, line := range l.facts.boots[n-1].Demo() {
			if name, text, ok := strings.Cut(line, ": "); ok {
				rows = append(rows, []string{name, text})
			}
		}
	}
	return rows
}

// knownDevice is the machine as the site's store has it.
func (l *Lab) knownDevice(ctx context.Context) (d store.Device, err error) {
	out, err := l.sealboot(ctx, "device", "show", "--dir", l.site, l.facts.device)
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal([]byte(out), &d)
}

// reference is the image's, as it was predicted.
func (l *Lab) reference() *policy.Image {
	image, _ := l.document("image.json").(*policy.Image)
	return image
}

// predicted is PCR 12 when the machine is attested.
func (l *Lab) predicted() string {
	if image := l.reference(); image != nil {
		return image.Attested["sha256"]
	}
	return ""
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
	kib := func(n int64) string { return fmt.Sprintf("%5.0f KiB", float64(n)/1024) }
	total := b.Kernel.Size + b.Initramfs.Size
	return [][]string{
		{"kernel", kib(b.Kernel.Size)},
		{"initramfs", kib(b.Initramfs.Size)},
		{"together", fmt.Sprintf("%s of %s (%d %%)", kib(total), strings.TrimSpace(kib(board.Budget)), 100*total/board.Budget)},
		{"UKI", kib(b.UKI.Size)},
		{"", "sha256:" + b.UKI.SHA256},
		{"image", strings.TrimSpace(l.facts.image)},
	}
}
