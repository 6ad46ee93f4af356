package armor

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// printed is a log as the recorder prints it.
func printed(t *testing.T, log []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := Print(&b, log); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFind(t *testing.T) {
	log := bytes.Repeat([]byte{0, 1, 2, 0xff, '\n'}, 600)
	text := printed(t, log)
	certificate := "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	lines := strings.SplitAfter(text, "\n")
	const kernel = "[    1.2] random: crng init done\n"
	for name, tt := range map[string]struct {
		text string
		err  error
	}{
		"alone":                    {text, nil},
		"as a terminal shows it":   {strings.ReplaceAll(text, "\n", "\r\n"), nil},
		"among other text":         {"\x1b[2JBdsDxe: starting\r\n[    0.1] Linux" + text + "reboot: Power down\n", nil},
		"behind another PEM block": {certificate + text, nil},
		"the first of two":         {text + printed(t, []byte("another")), nil},
		"none":                     {"BdsDxe: starting\r\n", ErrNone},
		"empty":                    {"", ErrNone},
		"another PEM block":        {certificate, ErrNone},
		"without an end":           {text[:len(text)-30], ErrDamaged},
		"a whole one behind it":    {printed(t, []byte("another"))[:40] + text, nil},
		"a line of the kernel":     {strings.Join(lines[:6], "") + kernel + strings.Join(lines[6:], ""), ErrDamaged},
		"that line, and again":     {strings.Join(lines[:6], "") + kernel + strings.Join(lines[6:], "") + text, nil},
		"power off in the middle":  {strings.Join(lines[:20], "") + "reboot: Power down\n", ErrDamaged},
		"lines lost":               {strings.Join(lines[:10], "") + strings.Join(lines[14:], ""), ErrDamaged},
		"a character changed":      {strings.Replace(text, "AAEC", "AAED", 1), ErrDamaged},
		"without its digest":       {lines[0] + lines[1] + strings.Join(lines[4:], ""), ErrDamaged},
		"another end":              {strings.Replace(text, "END TCG", "END X.509", 1) + certificate, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Find([]byte(tt.text))
			if !errors.Is(err, tt.err) {
				t.Fatalf("found error %v, want %v", err, tt.err)
			}
			if tt.err == nil && !bytes.Equal(got, log) {
				t.Errorf("found another log, of %d bytes, want %d", len(got), len(log))
			}
		})
	}
}

func TestPrintTells(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	if err := Print(w, []byte("log")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("found error %v, want %v", err, io.ErrClosedPipe)
	}
}

// FuzzFind holds Find to two promises: it takes no text apart that was not
// printed, and it finds what was, whatever stands before it on other lines.
func FuzzFind(f *testing.F) {
	f.Add([]byte("BdsDxe: starting\r\n"), []byte("log"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), []byte{})
	f.Fuzz(func(t *testing.T, before, log []byte) {
		_, err := Find(before)
		if err != nil && !errors.Is(err, ErrNone) && !errors.Is(err, ErrDamaged) {
			t.Fatalf("found error %v", err)
		}
		if !errors.Is(err, ErrNone) {
			return
		}
		got, err := Find(slices.Concat(before, []byte(printed(t, log))))
		if err != nil || !bytes.Equal(got, log) {
			t.Fatalf("printed %x, found %x and error %v", log, got, err)
		}
	})
}
