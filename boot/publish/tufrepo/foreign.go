package tufrepo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// encode returns a role as it is signed and published. What this change leaves as
// it is stays as it was received, to the byte where that is all of the role.
//
// A change is made to go-tuf's form of a role, in which not everything survives
// that other tools write: numbers above 2^53, null, members that are missing where
// go-tuf has a default. All of that would be signed anew as something else.
func (e *Edit) encode(name string) ([]byte, error) {
	origin := e.origin[name]
	if origin != nil && !e.changed[name] {
		return origin, nil
	}
	after, err := encode(e.roles[name])
	if err != nil || origin == nil {
		return after, err
	}
	md, err := decode(name, origin)
	if err != nil {
		return nil, err
	}
	before, err := encode(md)
	if err != nil {
		return nil, err
	}
	all, err := trees(origin, before, after)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	merged, err := encode(merge(all[0], all[1], all[2]))
	if err != nil {
		return nil, err
	}
	return merged, means(name, merged, after)
}

// trees parses JSON with numbers as they are written.
func trees(texts ...[]byte) ([]any, error) {
	all := make([]any, len(texts))
	for i, text := range texts {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if err := dec.Decode(&all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// means makes sure that the merged bytes say what the change says, and nothing
// else that go-tuf reads.
func means(name string, merged, after []byte) error {
	md, err := decode(name, merged)
	if err != nil {
		return err
	}
	got, err := encode(md)
	if err != nil {
		return err
	}
	both, err := trees(got, after)
	if err == nil && !reflect.DeepEqual(both[0], both[1]) {
		err = fmt.Errorf("encode %s: what another tool wrote there does not go together with the change", name)
	}
	return err
}

// merge makes the change from before to after in origin. Before is what go-tuf
// makes of origin.
func merge(origin, before, after any) any {
	if reflect.DeepEqual(before, after) {
		return origin
	}
	switch after := after.(type) {
	case map[string]any:
		o, isObject := origin.(map[string]any)
		b, wasObject := before.(map[string]any)
		if isObject && wasObject {
			return mergeObjects(o, b, after)
		}
	case []any:
		o, isArray := origin.([]any)
		b, wasArray := before.([]any)
		if isArray && wasArray && len(o) == len(b) {
			return mergeArrays(o, b, after)
		}
	}
	return after
}

func mergeObjects(origin, before, after map[string]any) map[string]any {
	merged := map[string]any{}
	for name, o := range origin {
		_, was := before[name]
		_, is := after[name]
		if was == is { // not removed
			merged[name] = o
		}
	}
	for name, a := range after {
		o, inOrigin := origin[name]
		b, was := before[name]
		switch {
		case inOrigin && was:
			merged[name] = merge(o, b, a)
		case !was || !reflect.DeepEqual(b, a): // else a default of go-tuf's
			merged[name] = a
		}
	}
	return merged
}

// mergeArrays goes by the position where nothing was added or removed, and by what
// elements are where something was.
func mergeArrays(origin, before, after []any) []any {
	merged := make([]any, len(after))
	for i, a := range after {
		merged[i] = a
		if len(after) == len(before) {
			merged[i] = merge(origin[i], before[i], a)
			continue
		}
		for j, b := range before {
			if reflect.DeepEqual(a, b) {
				merged[i] = origin[j]
				break
			}
		}
	}
	return merged
}
