package tufrepo

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct{ origin, before, after, want string }{
		"nothing changed":                {`{"a":1.0,"b":null}`, `{"a":1}`, `{"a":1}`, `{"a":1.0,"b":null}`},
		"one changed":                    {`{"a":1.0,"b":null,"c":2.0}`, `{"a":1,"c":2}`, `{"a":3,"c":2}`, `{"a":3,"b":null,"c":2.0}`},
		"one added":                      {`{"a":1.0}`, `{"a":1}`, `{"a":1,"b":2}`, `{"a":1.0,"b":2}`},
		"one removed":                    {`{"a":1.0,"b":2.0}`, `{"a":1,"b":2}`, `{"b":2}`, `{"b":2.0}`},
		"a default that was not there":   {`{"a":1.0}`, `{"a":1,"d":false}`, `{"a":2,"d":false}`, `{"a":2}`},
		"a default that was changed":     {`{"a":1.0}`, `{"a":1,"d":false}`, `{"a":1,"d":true}`, `{"a":1.0,"d":true}`},
		"null is set":                    {`{"a":null,"b":1.0}`, `{"b":1}`, `{"a":3,"b":1}`, `{"a":3,"b":1.0}`},
		"an element changed":             {`[1.0,{"a":2.0,"b":3.0}]`, `[1,{"a":2,"b":3}]`, `[1,{"a":2,"b":4}]`, `[1.0,{"a":2.0,"b":4}]`},
		"an element added":               {`[1.0,2.0]`, `[1,2]`, `[1,2,3]`, `[1.0,2.0,3]`},
		"an element removed":             {`[1.0,2.0,3.0]`, `[1,2,3]`, `[1,3]`, `[1.0,3.0]`},
		"an object becomes another kind": {`{"a":{"b":1.0}}`, `{"a":{"b":1}}`, `{"a":[1]}`, `{"a":[1]}`},
		"an array becomes an object":     {`{"a":[1.0]}`, `{"a":[1]}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
	} {
		all, err := trees([]byte(c.origin), []byte(c.before), []byte(c.after))
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(merge(all[0], all[1], all[2]))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
}

// FuzzMerge: without go-tuf in between, a merge is the change. Numbers are compared
// as they are written, as encode does: as float64, -0 and 0 are no change.
func FuzzMerge(f *testing.F) {
	f.Add(`{"a":1,"b":[1,{"c":2}]}`, `{"a":2,"b":[{"c":2}]}`)
	f.Add(`-0`, `0`)
	f.Fuzz(func(t *testing.T, before, after string) {
		both, err := trees([]byte(before), []byte(after))
		if err != nil {
			return
		}
		got, err := json.Marshal(merge(both[0], both[0], both[1]))
		want, err2 := json.Marshal(both[1])
		if err != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s, want %s; %v, %v", got, want, err, err2)
		}
	})
}
