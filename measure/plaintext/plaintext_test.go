package plaintext

import (
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	const hostile = "a\x1b[2J\u202eb\nc\x7f\xff"
	for name, c := range map[string]struct{ got, want string }{
		"line":            {Line(hostile, 100), "a?[2J?b?c??"},
		"lines":           {Lines(hostile, 100), "a?[2J?b\nc??"},
		"as long as can":  {Line("abcdef", 6), "abcdef"},
		"cut":             {Line("abcdefg", 6), "abc..."},
		"cut in a letter": {Line("ab\u00fcdefg", 6), "ab..."},
		"short limit":     {Line("abcdefg", 2), "..."},
		"prefix":          {Prefix([]byte("6.1\x00\x00x")), "6.1"},
		"no prefix":       {Prefix([]byte("\x1bx")), ""},
		"whole":           {Prefix([]byte("6.1")), "6.1"},
		"escape":          {Escape("q\"\u202e\n"), `q"\u202e\n`},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
	if Is(hostile) || !Is("a b~") || !Is("") {
		t.Error("Is")
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\x1b[2J\u202eb\nc", 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 3 + max(0, limit%1000)
		for _, got := range []string{Line(s, limit), strings.ReplaceAll(Lines(s, limit), "\n", "")} {
			if len(got) > limit || !Is(got) {
				t.Errorf("%q of %q, at most %d bytes", got, s, limit)
			}
		}
		if !Is(Escape(s)) {
			t.Errorf("%q of %q", Escape(s), s)
		}
	})
}
