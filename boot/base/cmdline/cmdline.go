// Package cmdline reads a kernel's command line as the kernel does, so that no one
// believes an option to be set which the kernel never sees.
package cmdline

import (
	"errors"
	"strings"
)

var (
	// ErrQuote says that a quote is open at the end: it takes in what is appended.
	ErrQuote = errors.New(`a " is not closed`)
	// ErrInit says that there is a "--": what comes behind it is for init, and no
	// option of the kernel.
	ErrInit = errors.New(`what is behind "--" is not for the kernel`)
)

// Options splits a command line at its spaces (next_arg in Linux's lib/cmdline.c):
// those within double quotes belong to a value. It returns what it has found also
// with [ErrQuote], and what is in front of the "--" with [ErrInit].
func Options(line string) (options []string, err error) {
	var option strings.Builder
	quoted := false
	for _, c := range []byte(line + " ") {
		quoted = quoted != (c == '"')
		if quoted || c > ' ' {
			option.WriteByte(c)
			continue
		}
		switch option.String() {
		case "":
		case "--":
			return options, ErrInit
		default:
			options = append(options, option.String())
		}
		option.Reset()
	}
	if quoted {
		return append(options, option.String()), ErrQuote
	}
	return options, nil
}
