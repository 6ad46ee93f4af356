// Package strict decodes JSON that somebody else will read too.
//
// encoding/json is forgiving: it takes "Type" for "type", keeps the last of two equal fields, and ignores those it
// does not know. A hostile document can therefore say one thing to a checker written in Go and another to the program
// that acts on it. [Decode] refuses every document that two readers could understand differently, and one with more in
// it than its size warrants.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"

	"github.com/sealboot/sealboot/measure/jsonlimit"
)

const maxDepth = 16

// Decode reads the one JSON value in raw. It refuses unknown fields, fields in another case than the tag of v says,
// repeated fields and anything behind the value. Fields that differ in case only count as repeated, since the decoder
// takes one for the other.
func Decode(raw []byte, v any) error {
	if _, err := jsonlimit.Usual(len(raw)).Count(raw); err != nil {
		return err
	}
	if err := oneReading(json.NewDecoder(bytes.NewReader(raw)), reflect.TypeOf(v), 0); err != nil {
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

// oneReading walks one JSON value, which is to be decoded into t; a nil t says nothing of its fields.
func oneReading(d *json.Decoder, t reflect.Type, depth int) error {
	token, err := next(d)
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
	fields, inner := parts(t)
	for d.More() {
		in := inner
		if delim == '{' {
			key, err := next(d)
			if err != nil {
				return err
			}
			name := fold(key.(string)) // the decoder gives nothing else here
			if f, ok := fields[name]; ok {
				if f.name != key {
					return fmt.Errorf("field %q is called %q", f.name, key)
				}
				in = f.is
			}
			if seen[name] {
				return fmt.Errorf("field %q is repeated", name)
			}
			seen[name] = true
		}
		if err := oneReading(d, in, depth+1); err != nil {
			return err
		}
	}
	_, err = next(d)
	return err
}

// next is a token inside of the value, where no end is expected.
func next(d *json.Decoder) (json.Token, error) {
	token, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

// field is a field of a struct: its name in JSON, and what it is.
type field struct {
	name string
	is   reflect.Type
}

// parts returns the fields of a struct by their folded names, or the type of what a map or a list holds. Types that
// decode themselves keep their own rules.
func parts(t reflect.Type) (fields map[string]field, inner reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil, nil
	}
	switch t.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array:
		return nil, t.Elem()
	case reflect.Struct:
		fields = map[string]field{}
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" {
				fields[fold(name)] = field{name, f.Type}
			}
		}
	}
	return fields, nil
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
