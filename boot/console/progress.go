package console

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

const barWidth = 20

// Progress shows that bytes arrive: done of total, at rate bytes a second, 0 if
// not known, with left to go, 0 if not known. It may be called as often as the
// caller likes.
func (c *Console) Progress(done, total int64, rate float64, left time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, complete := c.o.Now(), done >= total
	if c.o.JSON != nil && (complete || now-c.emitted >= jsonEvery) {
		c.emitted = now
		c.emit(message{Event: "progress", Done: done, Total: total, Rate: int64(rate), Left: left.Seconds()})
	}
	every := redrawEvery
	if c.o.Lines {
		every = lineEvery
	}
	if c.complete && complete || !complete && c.shown && now-c.drawn < every {
		return
	}
	c.drawn, c.shown, c.complete = now, true, complete
	line := strings.Repeat(" ", margin) + bar(done, total, rate, left)
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

// bar is at most width-1-margin columns wide.
func bar(done, total int64, rate float64, left time.Duration) string {
	part := 0.0
	if total > 0 {
		part = min(1, max(0, float64(done)/float64(total)))
	}
	full := int(part * barWidth)
	s := fmt.Sprintf("[%s%s] %3d%%  %s of %s", strings.Repeat("#", full), strings.Repeat("-", barWidth-full), int(part*100), size(done), size(total))
	if rate > 0 && done < total {
		s += fmt.Sprintf("  %s/s", size(int64(rate)))
		if left > 0 {
			s += "  " + remaining(left)
		}
	}
	return s
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
	case d >= 100*time.Hour:
		return ""
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()+0.5))
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
