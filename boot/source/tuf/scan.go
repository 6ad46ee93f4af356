package tuf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// What scan allows of the shape of a metadata file. Five million bytes that are
// full of targets have 460,000 values; parsing as many empty objects takes less
// than 100 MiB, and nothing is known of who wrote them yet.
const (
	maxDepth      = 32
	maxValues     = 500_000
	maxSignatures = 256
)

// scan refuses JSON that would be expensive or ambiguous to parse, before
// anything builds values from it: nesting, number of values, repeated names of
// an object, names in another case, anything after the end. It keeps no more than the names of the
// objects that are open.
func scan(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var open []frame
	whole := metadataShape()
	values, done := 0, false
	for {
		tok, err := dec.Token()
		if err == io.EOF && done {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, noEOF(err))
		}
		if done {
			return fmt.Errorf("%w: something follows the end", ErrMalformed)
		}
		if values++; values > maxValues {
			return fmt.Errorf("%w: more than %d values", ErrMalformed, maxValues)
		}
		if open, err = step(open, tok, whole); err != nil {
			return err
		}
		done = len(open) == 0
	}
}

// frame is an object or an array that is not closed yet.
type frame struct {
	shape   *shape          // what is known of it, or nil
	names   map[string]bool // nil for an array
	name    string          // of the member whose value comes next
	isValue bool            // whether a value comes next
	count   int
}

func step(open []frame, tok json.Token, whole *shape) ([]frame, error) {
	if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
		return leave(open[:len(open)-1]), nil
	}
	if n := len(open); n > 0 && open[n-1].names != nil && !open[n-1].isValue {
		top, name := &open[n-1], tok.(string)
		if top.names[name] {
			return nil, fmt.Errorf("%w: %s appears twice in an object", ErrMalformed, quote(name))
		}
		if known := top.shape.mistaken(name); known != "" {
			return nil, fmt.Errorf("%w: %s in the place of %s", ErrMalformed, quote(name), known)
		}
		top.names[name], top.name, top.isValue = true, name, true
		return open, nil
	}
	if n := len(open); n > 0 {
		open[n-1].count++
		if n == 2 && open[0].name == "signatures" && open[1].count > maxSignatures {
			return nil, fmt.Errorf("%w: more than %d signatures", ErrMalformed, maxSignatures)
		}
	}
	switch v := tok.(type) {
	case json.Delim:
		if len(open) == maxDepth {
			return nil, fmt.Errorf("%w: nested deeper than %d", ErrMalformed, maxDepth)
		}
		f := frame{shape: whole}
		if n := len(open); n > 0 {
			f.shape = open[n-1].shape.of(open[n-1].name)
		}
		if v == '{' {
			f.names = map[string]bool{}
		}
		return append(open, f), nil
	case json.Number:
		// Canonical JSON has integers only, and what is larger than an int64
		// would be rounded on its way through the parser.
		if _, err := strconv.ParseInt(v.String(), 10, 64); err != nil {
			return nil, fmt.Errorf("%w: the number %s is not a 64-bit integer", ErrMalformed, quote(v.String()))
		}
	}
	return leave(open), nil
}

// leave notes in the object around it that a value is complete.
func leave(open []frame) []frame {
	if n := len(open); n > 0 {
		open[n-1].isValue = false
	}
	return open
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// quote shows a hostile string in a message.
func quote(s string) string {
	const max = 80
	if len(s) > max {
		s = strings.ToValidUTF8(s[:max], "") + "..."
	}
	return strconv.Quote(s)
}
