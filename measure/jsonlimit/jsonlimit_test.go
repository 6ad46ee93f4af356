package jsonlimit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	l := Limits{Depth: 3, Values: 12, Items: 4}
	for raw, want := range map[string]int{
		``:                                     0,
		`{}`:                                   1,
		` [ ] `:                                1,
		`"a,b{[\"]}"`:                          1,
		`"\\"`:                                 1,
		`-1.5e+3`:                              1,
		`[1,2,3,4]`:                            5,
		`{"a":1,"b":[true,null],"c":{"d":""}}`: 11,
		`[[[]]]`:                               3,
		`[{},{},{},{}]`:                        5,
		`[1,[2,3,4,5],[6,7,8,9]]`:              12,
		`]]]}`:                                 0, // encoding/json refuses it
		`"\`:                                   1,
	} {
		if got, err := l.Count([]byte(raw)); err != nil || got != want {
			t.Errorf("%s has %d values, %v; want %d", raw, got, err, want)
		}
	}
	for raw, want := range map[string]string{
		`[[[[]]]]`:                            "max depth 3",
		`{"a":{"a":{"a":{`:                    "max depth 3",
		`[1,2,3,4,5]`:                         "more than 4 items",
		`{"a":1,"b":2,"c":3,"d":4,"e":5}`:     "more than 4 items",
		`[[1,2,3,4],[1,2,3,4],[1]]`:           "more than 12 values",
		`{"a":1,"b":[1,2,3,4],"c":[1,2,3,4]}`: "more than 12 values",
	} {
		if _, err := l.Count([]byte(raw)); !errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
		var v any
		if err := l.Unmarshal([]byte(raw), &v); !errors.Is(err, ErrTooMuch) || v != nil {
			t.Errorf("%s: decoded %v, %v", raw, v, err)
		}
	}
	var v []int
	if err := l.Unmarshal([]byte(`[1,2]`), &v); err != nil || len(v) != 2 {
		t.Errorf("%v, %v", v, err)
	}
}

// TestCountAllocates: counting is for documents that would be too large.
func TestCountAllocates(t *testing.T) {
	raw := []byte(strings.Repeat(`{"a":[`, 1000))
	l := Limits{Depth: 1 << 20, Values: 1 << 20, Items: 1 << 20}
	if n := testing.AllocsPerRun(5, func() {
		if _, err := l.Count(raw); err != nil {
			t.Error(err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCount compares with the tokens of encoding/json.
func FuzzCount(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[true,null,"\"]"],"c":{"d":-1e5}}`))
	f.Add([]byte(`1E1000`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := Limits{Depth: len(raw), Values: len(raw), Items: len(raw)}
		got, err := l.Count(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(raw) {
			return
		}
		want := 0
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // 1e1000 is a value of JSON, and no float64
		for {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if token != json.Delim('}') && token != json.Delim(']') {
				want++
			}
		}
		if got != want {
			t.Errorf("%q: %d values, want %d", raw, got, want)
		}
	})
}
