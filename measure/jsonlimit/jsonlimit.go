// Package jsonlimit counts what is in a JSON document before anything is built from it.
//
// A limit on the bytes of a document does not limit what becomes of them. An element of a list takes three bytes as
// "{}," and 120 bytes as the struct that it is decoded into: an image index of 4 MiB took 405 MiB of a machine's
// memory, and its signature had not been looked at yet. So code that decodes unverified bytes says how much there may
// be in them, and [Limits.Count] walks over them first. It allocates next to nothing.
//
// It does not say whether a document is well-formed: encoding/json does, also before it builds anything. It lies below
// measure because the packages of boot and of attest use it.
package jsonlimit

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrTooMuch is wrapped by every error about a document that exceeds its limits.
var ErrTooMuch = errors.New("JSON with too much in it")

// Limits of one document. All have to be given: a field that is zero allows none.
type Limits struct {
	Depth  int // of objects and arrays in each other
	Values int // of every kind, together; the name of a member counts as one
	Items  int // of one array, or members of one object
}

// Usual are limits for a document of size bytes of which nothing else is known. Metadata of TUF that is full of targets
// has a value for each 11 bytes, a snapshot of hash bins one for each 7, and a list of {} one for each 3; small documents
// may be as dense as they like.
func Usual(size int) Limits {
	return Limits{Depth: 32, Values: 4096 + size/6, Items: 4096 + size/8}
}

// Unmarshal is json.Unmarshal for a document within l.
func (l Limits) Unmarshal(raw []byte, v any) error {
	if _, err := l.Count(raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Count returns how many values are in raw. The error is [ErrTooMuch].
func (l Limits) Count(raw []byte) (int, error) {
	var open []int // items of the objects and arrays that are not closed yet
	values := 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case ' ', '\t', '\r', '\n', ':':
			continue
		case '}', ']':
			open = open[:max(len(open)-1, 0)]
			continue
		case ',':
			if n := len(open); n > 0 {
				if open[n-1]++; open[n-1] > l.Items {
					return 0, fmt.Errorf("%w: more than %d items in one list or object", ErrTooMuch, l.Items)
				}
			}
			continue
		case '{', '[':
			if len(open) == l.Depth {
				return 0, fmt.Errorf("%w: it exceeded max depth %d", ErrTooMuch, l.Depth)
			}
			open = append(open, 1)
		case '"':
			i = endOfString(raw, i+1)
		default:
			for i+1 < len(raw) && strings.IndexByte(" \t\r\n:,{}[]\"", raw[i+1]) < 0 {
				i++
			}
		}
		if values++; values > l.Values {
			return 0, fmt.Errorf("%w: more than %d values", ErrTooMuch, l.Values)
		}
	}
	return values, nil
}

// endOfString returns where the string ends whose first byte is at i.
func endOfString(raw []byte, i int) int {
	for ; i < len(raw) && raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i
}
