package config

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A FieldError names one field of a configuration and says what was expected
// there.
type FieldError struct {
	Path    string // as in "sources[1].threshold"; empty for the whole file
	Problem string // "want ..., found ..."
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Problem
	}
	return e.Path + ": " + e.Problem
}

func fieldErrorf(path, format string, args ...any) error {
	return &FieldError{Path: path, Problem: fmt.Sprintf(format, args...)}
}

// decodeStrict reads exactly one JSON object from b into the struct that v
// points to.
//
// encoding/json alone is too forgiving for a file that is a trust root: it
// takes "Shell" for "shell", keeps the last of two equal fields, ignores null
// and turns broken UTF-8 into another string. All of these are refused here.
func decodeStrict(b []byte, v any) error {
	if !utf8.Valid(b) {
		return fieldErrorf("", "want UTF-8 text, found other bytes")
	}
	d := decoder{json.NewDecoder(bytes.NewReader(b))}
	d.UseNumber()
	if err := d.value("", reflect.ValueOf(v).Elem()); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fieldErrorf("", "want one JSON object, found more text after it")
	}
	return nil
}

type decoder struct{ *json.Decoder }

func (d decoder) token(path string) (json.Token, error) {
	t, err := d.Token()
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, fieldErrorf(path, "want JSON, found the end of the file")
	}
	if err != nil {
		return nil, fieldErrorf(path, "want JSON: %v near byte %d", err, d.InputOffset())
	}
	return t, nil
}

func (d decoder) value(path string, v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	t, err := d.token(path)
	if err != nil {
		return err
	}
	switch {
	case v.Kind() == reflect.Struct && t == json.Delim('{'):
		return d.object(path, v)
	case v.Type() == reflect.TypeFor[[]byte]():
		if s, ok := t.(string); ok {
			raw, err := base64.StdEncoding.Strict().DecodeString(s)
			if err != nil {
				return fieldErrorf(path, "want base64, found something else")
			}
			v.SetBytes(raw)
			return nil
		}
	case v.Kind() == reflect.Slice && t == json.Delim('['):
		return d.array(path, v)
	case v.Kind() == reflect.String:
		if s, ok := t.(string); ok {
			v.SetString(s)
			return nil
		}
	case v.Kind() == reflect.Bool:
		if b, ok := t.(bool); ok {
			v.SetBool(b)
			return nil
		}
	case v.Kind() == reflect.Int:
		if n, ok := t.(json.Number); ok {
			i, err := strconv.ParseInt(n.String(), 10, 32)
			if err != nil {
				return fieldErrorf(path, "want a whole number, found %s", n)
			}
			v.SetInt(i)
			return nil
		}
	}
	return fieldErrorf(path, "want %s, found %s", wanted(v), found(t))
}

func (d decoder) object(path string, v reflect.Value) error {
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.token(path)
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return fieldErrorf(path, "want a field name, found %s", found(t))
		}
		at := join(path, name)
		if seen[name] {
			return fieldErrorf(at, "want this field once, found it again")
		}
		seen[name] = true
		f, ok := field(v, name)
		if !ok {
			return fieldErrorf(at, "no such field; want one of %s", strings.Join(fieldNames(v.Type()), ", "))
		}
		if err := d.value(at, f); err != nil {
			return err
		}
	}
	_, err := d.token(path)
	return err
}

func (d decoder) array(path string, v reflect.Value) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for d.More() {
		at := index(path, v.Len())
		if v.Len() == maxItems {
			return fieldErrorf(path, "want at most %d items, found more", maxItems)
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(at, item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	_, err := d.token(path)
	return err
}

func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i, n := range fieldNames(v.Type()) {
		if n == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func wanted(v reflect.Value) string {
	switch {
	case v.Type() == reflect.TypeFor[[]byte]():
		return "base64 in a string"
	case v.Kind() == reflect.Struct:
		return "an object"
	case v.Kind() == reflect.Slice:
		return "a list"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Int:
		return "a whole number"
	}
	return "a string"
}

func found(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case json.Delim:
		if t == '{' {
			return "an object"
		}
		return "a list"
	case string:
		return strconv.Quote(shorten(t))
	}
	return fmt.Sprint(t)
}

// shorten keeps an error on one line whatever was in the file.
func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func join(path, name string) string {
	name = shorten(name)
	if q := strconv.Quote(name); q != `"`+name+`"` {
		name = q // a name from the file must not move the console's cursor
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
