// Package strict decodes JSON that somebody else will read too.
//
// encoding/json is forgiving: it takes "Type" for "type", keeps the last of two equal fields, and ignores those it
// does not know. A hostile document can therefore say one thing to a checker written in Go and another to the program
// that acts on it. [Decode] refuses every document that two readers could understand differently.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

const maxDepth = 16

// Decode reads the one JSON value in raw. It refuses unknown fields, repeated fields and anything behind the value.
// Fields that differ in case only count as repeated, since the decoder takes one for the other.
func Decode(raw []byte, v any) error {
	if err := noRepeats(json.NewDecoder(bytes.NewReader(raw)), 0); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

// noRepeats walks one JSON value.
func noRepeats(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if delim == '{' {
			key, err := d.Token()
			if err != nil {
				return err
			}
			name := fold(key.(string)) // the decoder gives nothing else here
			if seen[name] {
				return fmt.Errorf("field %q is repeated", name)
			}
			seen[name] = true
		}
		if err := noRepeats(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// fold gives the same for names that the decoder takes for each other: it knows that "ſ" is an "s".
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}
