package strict

import (
	"errors"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	for text, want := range map[string]struct{ refused, newer bool }{
		`{}`:                             {},
		`{"version":1}`:                  {},
		`{"version":2}`:                  {},
		`{"version":3}`:                  {refused: true, newer: true},
		`{"version":3,"not known":true}`: {refused: true, newer: true},
		`{"version":0}`:                  {refused: true},
		`{"version":-1}`:                 {refused: true},
		`{"version":"3"}`:                {}, // the strict reader refuses it
		`{"version":`:                    {},
		`[]`:                             {},
	} {
		err := CheckVersion([]byte(text), 2)
		if (err != nil) != want.refused || errors.Is(err, ErrNewer) != want.newer {
			t.Errorf("%s: %v, want %+v", text, err, want)
		}
	}
}
