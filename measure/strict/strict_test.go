package strict

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	type inner struct {
		Size int `json:"size"`
	}
	type doc struct {
		Type  string           `json:"type"`
		Areas map[string]inner `json:"areas"`
		Parts []*inner         `json:"parts"`
		Inner *inner           `json:"inner"`
		Raw   json.RawMessage  `json:"raw"`
		Any   any              `json:"any"`
	}
	for raw, want := range map[string]bool{
		`{"type":"a","areas":{"0":{"size":1},"1":{"size":2}}}`: true,
		` {"type":"a"} `:                          true,
		`{"type":"a","type":"b"}`:                 false,
		`{"type":"a","Type":"b"}`:                 false,
		`{"t\u0079pe":"a","type":"b"}`:            false,
		`{"Type":"a"}`:                            false,
		`{"typ\u0065":"a"}`:                       true,
		`{"areas":{"0":{"Size":1}}}`:              false,
		`{"areas":{"A":{"size":1}},"parts":[]}`:   true,
		`{"parts":[{"size":1},{"\u017fize":1}]}`:  false,
		`{"inner":{"SIZE":1}}`:                    false,
		`{"raw":{"SIZE":1},"any":{"TYPE":[]}}`:    true,
		`{"areas":{"0":{"size":1,"ſize":2}}}`:     false,
		`{"areas":{"0":{}},"areas":{}}`:           false,
		`{"areas":{"0":{"size":1},"0":{}}}`:       false,
		`{"type":"a","x":1}`:                      false,
		`{"type":"a"}{}`:                          false,
		`{"type":"a"`:                             false,
		``:                                        false,
		`{"x":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]`: false,
	} {
		if err := Decode([]byte(raw), new(doc)); (err == nil) != want {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestDepth(t *testing.T) {
	nested := func(depth int) []byte { return []byte(strings.Repeat("[", depth) + strings.Repeat("]", depth)) }
	var v any
	if err := Decode(nested(maxDepth), &v); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
	if err := Decode(nested(maxDepth+2), &v); err == nil {
		t.Errorf("%d levels were read", maxDepth+2)
	}
}
