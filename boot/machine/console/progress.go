package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const barWidth = 16

// A Progress is how far a part of a stage is.
type Progress struct {
	Done, Total int64         // bytes
	Rate        float64       // bytes a second; 0 is not known
	Left        time.Duration // to the end; 0 is not known
	// What is done with the bytes, as "unpacked"; empty means fetched.
	What string
}

// part is what was shown of one part's progress.
type part struct {
	what     string
	began    time.Duration
	first    int64         // bytes that were there when it began
	drawn    time.Duration // the last time on Out
	every    time.Duration // until the next
	complete bool          // the end of it was shown
}

// Progress shows that bytes arrive. It may be called as often as the caller likes.
func (c *Console) Progress(p Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.What == "" {
		p.What = "fetched"
	}
	now, complete := c.o.Now(), p.Done >= p.Total
	if c.o.JSON != nil && (complete || now-c.emitted >= jsonEvery) {
		c.emitted = now
		c.emit(message{Event: "progress", What: p.What, Done: p.Done, Total: p.Total, Rate: int64(p.Rate), Left: p.Left.Seconds()})
	}
	begins := c.part.what != p.What
	if begins {
		if c.barOpen { // of another part: it stays
			c.newLine()
		}
		c.part = part{what: p.What, began: now, first: p.Done, drawn: now, every: lineEvery}
	}
	if c.part.complete && complete || !complete && !c.due(now, begins) {
		return
	}
	c.part.drawn, c.part.complete = now, complete
	text := p.bar(barWidth)
	if complete {
		text += " " + p.What + meanRate(p.Done-c.part.first, now-c.part.began)
	} else {
		text += p.pace()
	}
	c.draw(strings.Repeat(" ", margin) + text[:min(len(text), width-1-margin)])
}

// due tells whether the console follows if more is written. Lines come ever more
// slowly: a download of hours must not fill a log.
func (c *Console) due(now time.Duration, begins bool) bool {
	if !c.o.Lines {
		return begins || now-c.part.drawn >= redrawEvery
	}
	if begins || now-c.part.drawn < c.part.every {
		return false
	}
	c.part.every = min(2*c.part.every, slowestLine)
	return true
}

// draw writes a line of its own, or over the one that was drawn last.
func (c *Console) draw(line string) {
	if c.o.Lines {
		c.newLine()
		c.write(line + "\n")
		return
	}
	if c.barOpen {
		c.write("\r")
	} else {
		c.newLine()
	}
	c.write(fmt.Sprintf("%-*s", width-1, line)) // over what was longer before
	c.barOpen = true
}

// bar is what a person looks at.
func (p Progress) bar(columns int) string {
	part := 0.0
	if p.Total > 0 {
		part = min(1, max(0, float64(p.Done)/float64(p.Total)))
	}
	full := int(part * float64(columns))
	of := size(p.Total)
	if p.Done < p.Total {
		done, unit, _ := strings.Cut(size(p.Done), " ")
		if strings.HasSuffix(of, " "+unit) {
			of = done + " of " + of
		} else {
			of = done + " " + unit + " of " + of
		}
	}
	return fmt.Sprintf("[%s%s] %3d%%  %s", strings.Repeat("#", full), strings.Repeat("-", columns-full), int(part*100), of)
}

// pace is how fast it goes, and what that means.
func (p Progress) pace() string {
	if p.Rate <= 0 {
		return " " + p.What
	}
	s := fmt.Sprintf(", %s/s", size(int64(p.Rate)))
	if left := remaining(p.Left); left != "" {
		s += ", " + left + " left"
	}
	return s
}

// meanRate sums a part up. Of a moment there is nothing to say.
func meanRate(n int64, took time.Duration) string {
	if took < 100*time.Millisecond {
		return ""
	}
	return fmt.Sprintf(" in %s, %s/s", seconds(took), size(int64(float64(n)/took.Seconds())))
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

func remaining(d time.Duration) string {
	switch {
	case d <= 0 || d >= 100*time.Hour:
		return ""
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// message is one line of the second channel. Times are in seconds.
type message struct {
	At    string  `json:"stage,omitempty"`
	Event string  `json:"event"` // title, stage, info, warning, progress, done, failed, waiting, end
	Since float64 `json:"since"` // the console began

	Text    string  `json:"text,omitempty"`
	Version string  `json:"version,omitempty"`
	Next    string  `json:"next,omitempty"`
	What    string  `json:"what,omitempty"`  // fetched, unpacked, checked
	Done    int64   `json:"done,omitempty"`  // bytes
	Total   int64   `json:"total,omitempty"` // bytes
	Rate    int64   `json:"rate,omitempty"`  // bytes a second
	Left    float64 `json:"left,omitempty"`
	Took    float64 `json:"took,omitempty"`
	Round   int     `json:"round,omitempty"`
}

func (c *Console) emit(m message) {
	if c.o.JSON == nil {
		return
	}
	if m.At == "" {
		m.At = string(c.stage)
	}
	m.Since = c.o.Now().Seconds()
	if len(m.Text) > maxText {
		m.Text = m.Text[:maxText]
	}
	if b, err := json.Marshal(m); err == nil {
		_, _ = c.o.JSON.Write(append(b, '\n'))
	}
}
