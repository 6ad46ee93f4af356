package tufrepo

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompare(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string
		want          []string
	}{
		"the same":         {`{"a":[1,{"b":null}]}`, `{"a":[1,{"b":null}]}`, nil},
		"members":          {`{"a":1,"b":2}`, `{"b":3,"c":{"d":4}}`, []string{"- a: 1", "~ b: 2 -> 3", `+ c: {"d":4}`}},
		"kinds":            {`{"a":{}}`, `{"a":[]}`, []string{"~ a: {} -> []"}},
		"null is a value":  {`{"a":null}`, `{}`, []string{"- a: null"}},
		"large numbers":    {`{"a":9007199254740993}`, `{"a":9007199254740992}`, []string{"~ a: 9007199254740993 -> 9007199254740992"}},
		"lists":            {`{"a":["x","y"]}`, `{"a":["y","z"]}`, []string{`- a: "x"`, `+ a: "z"`}},
		"repeated":         {`{"a":["x","x"]}`, `{"a":["x"]}`, []string{`- a: "x"`}},
		"order":            {`{"a":["x","y"]}`, `{"a":["y","x"]}`, []string{`~ a: order ["x","y"] -> ["y","x"]`}},
		"named":            {`{"roles":[{"name":"a","threshold":1}]}`, `{"roles":[{"name":"a","threshold":2}]}`, []string{"~ roles.a.threshold: 1 -> 2"}},
		"order of named":   {`{"r":[{"name":"a"},{"name":"b"}]}`, `{"r":[{"name":"b"},{"name":"a"}]}`, []string{"~ r: order a, b -> b, a"}},
		"named twice":      {`{"r":[{"name":"a"}]}`, `{"r":[{"name":"a"},{"name":"a"}]}`, []string{`+ r: {"name":"a"}`}},
		"names like paths": {`{"targets":{}}`, `{"targets":{"a.b/c":1,"":2}}`, []string{`+ targets[""]: 2`, `+ targets["a.b/c"]: 1`}},
		"tricks of a terminal": {`{}`, `{"a\u001b[2K":"\u202ex\r\n"}`,
			[]string{`+ ["a\x1b[2K"]: "\u202ex\\r\\n"`}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, compareJSON(t, tc.before, tc.after)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func compareJSON(t *testing.T, before, after string) []string {
	t.Helper()
	b, err := signedPart([]byte(`{"signed":` + before + `}`))
	if err != nil {
		t.Fatal(err)
	}
	a, err := signedPart([]byte(`{"signed":` + after + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return compare("", b, a)
}

// FuzzCompare: no difference is silent, no sameness is one, and no line of it is
// more than a line of ASCII.
func FuzzCompare(f *testing.F) {
	f.Add(`{"r":[{"name":"a"},{"name":"b"}]}`, `{"r":[{"name":"b"},{"name":"a","x":["\u202e",1e400]}]}`)
	f.Fuzz(func(t *testing.T, before, after string) {
		parsed := func(s string) map[string]any {
			if !json.Valid([]byte(s)) {
				t.Skip()
			}
			v, err := signedPart([]byte(`{"signed":` + s + `}`))
			if err != nil {
				t.Skip()
			}
			return v
		}
		b, a := parsed(before), parsed(after)
		lines := compare("", b, a)
		if same := compact(b) == compact(a) || len(b)+len(a) == 0; same != (len(lines) == 0) {
			t.Errorf("%d lines for %s and %s", len(lines), compact(b), compact(a))
		}
		if i := strings.IndexFunc(strings.Join(lines, ""), func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			t.Errorf("not printable: %q", lines)
		}
	})
}
