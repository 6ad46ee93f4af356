// Package console shows a boot to the person in front of the machine, and
// to the one who reads its serial line a day later.
//
// People get one line a stage with what was found and how long it took, a bar
// while bytes arrive, and on failure the cause and what happens next. Programs
// get the same as JSON, one object a line, on a second channel. Text that came
// from outside cannot move the cursor or forge a line.
package console

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sealboot/sealboot/boot/flow"
	"github.com/sealboot/sealboot/measure/plaintext"
)

const (
	width     = 80 // columns of a serial console
	margin    = 11 // columns of the stage's name
	timeWidth = 9  // columns of a time at the right

	redrawEvery = 300 * time.Millisecond // bar, by carriage return: 9600 baud can follow
	lineEvery   = time.Second            // progress, by new lines: doubled after each,
	slowestLine = time.Minute            // up to this
	jsonEvery   = time.Second
)

// Options say where to write. Out is needed.
type Options struct {
	Out io.Writer
	// JSON gets one JSON object a line; may be nil.
	JSON io.Writer
	// Lines makes progress new lines instead of a bar that is redrawn, for
	// consoles that are recorded.
	Lines bool
	// Now is the time since some fixed moment; nil means since New.
	Now func() time.Duration
}

// A Console is safe for use by several goroutines. Errors of its writers are
// ignored: a console that does not work is no reason not to boot.
type Console struct {
	o Options

	mu      sync.Mutex
	stage   flow.Stage
	began   time.Duration // of the stage
	column  int           // of the cursor on a line that may go on
	barOpen bool          // the cursor is at the end of a bar
	part    part          // of the stage, whose progress is shown
	emitted time.Duration // last progress on JSON
}

var _ flow.Reporter = (*Console)(nil)

// New returns a console.
func New(o Options) *Console {
	if o.Now == nil {
		start := time.Now()
		o.Now = func() time.Duration { return time.Since(start) }
	}
	return &Console{o: o}
}

// Title begins the output.
func (c *Console) Title(name, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write("\nSealboot " + plaintext.Lines(version, maxText) + "  " + plaintext.Lines(name, maxText) + "\n\n")
	c.emit(message{Event: "title", Text: name, Version: version})
}

// Stage ends the stage before and begins s. To begin it again is to go on.
func (c *Console) Stage(s flow.Stage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endStage()
	c.stage, c.began, c.part = s, c.o.Now(), part{}
	c.write(fmt.Sprintf("%-*s", margin, " "+string(s)))
	c.column = margin
	c.emit(message{Event: "stage"})
}

// Info shows what the stage found: digests to people by their beginning, to
// programs whole.
func (c *Console) Info(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paragraph("", digest.ReplaceAllString(text, "$1..."))
	c.emit(message{Event: "info", Text: text})
}

var digest = regexp.MustCompile(`\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b`)

// Warn shows what the stage survived.
func (c *Console) Warn(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paragraph("warning: ", err.Error())
	c.emit(message{Event: "warning", Text: err.Error()})
}

// Fail shows why a stage ended and what happens next.
func (c *Console) Fail(f *flow.Failure, next string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newLine()
	c.write(fmt.Sprintf("\n FAILED at %s\n", f.Stage))
	c.labelled("  cause", f.Err.Error())
	c.labelled("  next", next)
	c.write("\n")
	c.column, c.stage = 0, ""
	c.emit(message{Event: "failed", At: string(f.Stage), Text: f.Err.Error(), Next: next})
}

// Waiting shows a pause before the next round.
func (c *Console) Waiting(d time.Duration, round int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endStage()
	c.stage = ""
	c.write(fmt.Sprintf(" waiting %s, then round %d\n", seconds(d), round))
	c.emit(message{Event: "waiting", Left: d.Seconds(), Round: round})
}

// End shows how the loader ends.
func (c *Console) End(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endStage()
	c.stage = ""
	c.write("\n " + plaintext.Lines(text, maxText) + "\n")
	c.emit(message{Event: "end", Text: text})
}

func (c *Console) endStage() {
	if c.stage == "" {
		c.newLine()
		return
	}
	took := c.o.Now() - c.began
	if !c.barOpen && c.column > 0 {
		c.write(fmt.Sprintf("%*s", max(2, width-1-c.column), seconds(took)))
	}
	c.newLine()
	c.emit(message{Event: "done", Took: took.Seconds()})
}

// paragraph writes text next to the stage's name, or below what is there.
func (c *Console) paragraph(label, text string) {
	if c.barOpen || c.column != margin || c.stage == "" {
		c.newLine()
		c.write(strings.Repeat(" ", margin))
	}
	lines := wrap(label+plaintext.Lines(text, maxText), width-1-margin-timeWidth)
	c.write(strings.Join(lines, "\n"+strings.Repeat(" ", margin)))
	c.column = margin + len([]rune(lines[len(lines)-1]))
}

func (c *Console) labelled(label, text string) {
	lines := wrap(plaintext.Lines(text, maxText), width-1-margin)
	for i, l := range lines {
		if i > 0 {
			label = ""
		}
		c.write(fmt.Sprintf("%-*s%s\n", margin, label, l))
	}
}

func (c *Console) newLine() {
	if c.column > 0 || c.barOpen {
		c.write("\n")
	}
	c.column, c.barOpen = 0, false
}

func (c *Console) write(s string) { _, _ = io.WriteString(c.o.Out, s) }

// wrap breaks text into lines of at most n columns, at spaces where there are
// any, and at its own line ends.
func wrap(text string, n int) []string {
	var lines []string
	for part := range strings.SplitSeq(text, "\n") {
		line := ""
		for word := range strings.FieldsSeq(part) {
			for len([]rune(word)) > n { // a URL or a digest
				if line != "" {
					lines = append(lines, line)
					line = ""
				}
				r := []rune(word)
				lines, word = append(lines, string(r[:n])), string(r[n:])
			}
			switch {
			case line == "":
				line = word
			case len([]rune(line))+1+len([]rune(word)) <= n:
				line += " " + word
			default:
				lines, line = append(lines, line), word
			}
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return []string{""}
	}
	return lines
}

const maxText = 2000 // bytes of one text; what is longer came from somebody hostile
