package cmdline

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOptions(t *testing.T) {
	for line, want := range map[string]struct {
		options []string
		err     error
	}{
		"":                          {},
		"  ":                        {},
		"quiet panic=10":            {options: []string{"quiet", "panic=10"}},
		" quiet \t panic=10 \n":     {options: []string{"quiet", "panic=10"}},
		`a="b c=d" e`:               {options: []string{`a="b c=d"`, "e"}},
		`"a b"=c`:                   {options: []string{`"a b"=c`}},
		`a="b panic=10`:             {options: []string{`a="b panic=10 `}, err: ErrQuote},
		`a="`:                       {options: []string{`a=" `}, err: ErrQuote},
		"quiet -- panic=10":         {options: []string{"quiet"}, err: ErrInit},
		"--":                        {err: ErrInit},
		`a="x -- y" panic=10 --b -`: {options: []string{`a="x -- y"`, "panic=10", "--b", "-"}},
	} {
		got, err := Options(line)
		if diff := cmp.Diff(want.options, got); diff != "" || !errors.Is(err, want.err) {
			t.Errorf("Options(%q): error %v, want %v; (-want +got):\n%s", line, err, want.err, diff)
		}
	}
}

// FuzzOptions checks that what was read is all that there is, and reads the same again.
func FuzzOptions(f *testing.F) {
	f.Add(`console=ttyS0 a="b c" panic=10`)
	f.Add("quiet -- single")
	f.Fuzz(func(t *testing.T, line string) {
		options, err := Options(line)
		if err != nil {
			return
		}
		again, err := Options(strings.Join(options, " "))
		if diff := cmp.Diff(options, again); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", line, err, diff)
		}
		space := func(c rune) bool { return c >= 0 && c <= ' ' }
		bare := func(s string) string { return strings.Join(strings.FieldsFunc(s, space), "") }
		if bare(line) != bare(strings.Join(options, " ")) {
			t.Errorf("%q lost something: %q", line, options)
		}
	})
}
