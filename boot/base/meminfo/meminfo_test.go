package meminfo

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const good = "MemTotal:        3062764 kB\nMemFree:         2000000 kB\nMemAvailable:    2500000 kB\nHugePages_Total:       0\n"
	for name, tc := range map[string]struct {
		text string
		want Info
		bad  string
	}{
		"as Linux writes it": {text: good, want: Info{3062764 << 10, 2500000 << 10}},
		"no MemAvailable":    {text: strings.ReplaceAll(good, "MemAvailable", "Other"), bad: "no MemAvailable"},
		"no MemTotal":        {text: strings.ReplaceAll(good, "MemTotal", "Other"), bad: "no MemTotal"},
		"no number":          {text: strings.ReplaceAll(good, "2500000", "much"), bad: "MemAvailable"},
		"empty":              {bad: "it has no"},
	} {
		got, err := parse(strings.NewReader(tc.text))
		if got != tc.want || (err == nil) != (tc.bad == "") || err != nil && !strings.Contains(err.Error(), tc.bad) {
			t.Errorf("%s: %+v, %v; want %+v, %q", name, got, err, tc.want, tc.bad)
		}
	}
}

func TestRead(t *testing.T) {
	i, err := Read()
	if err != nil || i.Available <= 0 || i.Total < i.Available {
		t.Errorf("Read() = %+v, %v", i, err)
	}
}

func TestShortError(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", &ShortError{What: "the image", Need: 1<<20 + 1, Available: 1<<20 - 1})
	const want = "wrapped: the image needs 2 MiB of memory, 0 MiB are available: use a smaller image or a machine with more RAM"
	if !errors.Is(err, ErrShort) || err.Error() != want {
		t.Errorf("%v; want %s", err, want)
	}
}
