// Package plaintext makes text from outside fit for a terminal, a log or an error: a name
// in a layer, a header of a server or an event of a log could move a cursor, hide a line or
// fill the screen. It is here because boot and attest both use it.
//
// [Line] and [Lines] are for text that people read and nothing parses. [Escape] is for
// names, two of which must not look the same. What is shown in HTML keeps its letters:
// attestd's pages have rules of their own.
package plaintext

import (
	"strconv"
	"strings"
)

const ellipsis = "..."

func printable(r rune) bool { return r >= ' ' && r <= '~' }

// Line is s as one line of printable ASCII, with "?" for every other character. It
// has at most limit bytes; what was cut ends with "...".
func Line(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if printable(r) {
			return r
		}
		return '?'
	}, cut(s, limit))
}

// Lines is like [Line], and keeps the ends of lines.
func Lines(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || printable(r) {
			return r
		}
		return '?'
	}, cut(s, limit))
}

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:max(0, limit-len(ellipsis))], "") + ellipsis
}

// Is reports whether s is one line of printable ASCII already.
func Is(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !printable(r) }) < 0
}

// Prefix is the printable ASCII that b begins with, as in a field that is padded with zeros.
func Prefix(b []byte) string {
	for i, c := range b {
		if !printable(rune(c)) {
			return string(b[:i])
		}
	}
	return string(b)
}

// Escape is s with everything but printable ASCII as Go writes it, "\u202e" for instance.
func Escape(s string) string {
	q := strconv.QuoteToASCII(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
