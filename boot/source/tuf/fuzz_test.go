package tuf

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

var seeds = []string{
	``, `null`, `{}`, `{"signed":{},"signatures":[]}`,
	`{"signed":{"_type":"root","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","consistent_snapshot":true,"keys":{"k":{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":"abcd"}}},"roles":{"root":{"keyids":["k"],"threshold":1},"timestamp":{"keyids":["k"],"threshold":1},"snapshot":{"keyids":["k"],"threshold":1},"targets":{"keyids":["k"],"threshold":1}}},"signatures":[{"keyid":"k","sig":"00"}]}`,
	`{"signed":{"_type":"timestamp","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","meta":{"snapshot.json":{"version":1}}},"signatures":[]}`,
	`{"signed":{"_type":"timestamp","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","meta":{}},"signatures":[]}`,
	`{"signed":{"_type":"snapshot","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","meta":{"targets.json":{"version":1,"length":1,"hashes":{"sha256":"00"}}}},"signatures":[]}`,
	`{"signed":{"_type":"targets","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","targets":{"a":{"length":1,"hashes":{"sha256":"00"},"custom":{"x":1}}},"delegations":{"keys":{},"roles":[{"name":"d","keyids":["k"],"threshold":1,"terminating":true,"paths":["*"]}]}},"signatures":[]}`,
	`{"signed":{"_type":"targets","spec_version":"1.0.31","version":1,"expires":"2030-01-01T00:00:00Z","targets":{},"delegations":{"keys":{},"succinct_roles":{"keyids":["k"],"threshold":1,"bit_length":8,"name_prefix":"b"}}},"signatures":[]}`,
}

// FuzzMetadata feeds every role's verification. Nothing may panic, and nothing
// without signatures may be trusted.
func FuzzMetadata(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Unix(1_700_000_000, 0)
		if _, err := newTrust(data, now); err == nil {
			t.Skip("a root that signed itself")
		}
		for role, parseAs := range map[string]func() error{
			RoleRoot:      func() error { _, err := parse(RoleRoot, data, checkRoot); return err },
			RoleTimestamp: func() error { _, err := parse(RoleTimestamp, data, checkTimestamp); return err },
			RoleSnapshot:  func() error { _, err := parse(RoleSnapshot, data, checkSnapshot); return err },
			RoleTargets: func() error {
				md, err := parse(RoleTargets, data, checkTargets)
				if err == nil {
					searchAll(md)
				}
				return err
			},
		} {
			_ = guard(role, parseAs)
		}
	})
}

// searchAll uses targets metadata that passed the checks.
func searchAll(md *file[metadata.TargetsType]) {
	for _, name := range []string{"", "a", "dir/a", "*"} {
		responsible(RoleTargets, md.Signed.Delegations, name)
	}
	for name, file := range md.Signed.Targets {
		_, _ = newTarget(name, file, RoleTargets, 1)
	}
}

// FuzzScan: what passes the scan is JSON, and shallow.
func FuzzScan(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(`[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if scan(data) == nil && !json.Valid(data) {
			t.Fatalf("%q passed", data)
		}
	})
}

// FuzzGlob: a pattern never panics and never crosses a slash.
func FuzzGlob(f *testing.F) {
	f.Add("releases/*/[!a]?.zip", "releases/x/bc.zip")
	f.Add("[", "a")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if glob(pattern, name) && strings.Count(pattern, "/") != strings.Count(name, "/") {
			t.Fatalf("%q matches %q", pattern, name)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a", true}, {"*", "a/b", false}, {"*", "", true}, {"a/*", "a/b", true}, {"a/*", "a/b/c", false},
		{"?", "a", true}, {"?", "/", false}, {"[ab]", "b", true}, {"[!ab]", "b", false}, {"[!ab]", "c", true}, {"x[!a]y", "x/y", false},
		{"[", "[", false}, {"a", "a", true}, {"a", "A", false}, {`\*`, "*", true}, {"", "", true}, {"", "a", false},
	} {
		if got := glob(tc.pattern, tc.name); got != tc.want {
			t.Errorf("glob(%q, %q) is %t", tc.pattern, tc.name, got)
		}
	}
}

func TestScanShape(t *testing.T) {
	for data, ok := range map[string]bool{
		`{"a":{"a":1},"b":[{"a":1},{"a":2}]}`: true,
		`{"a":1,"a":1}`:                       false,
		`{"a":"a","b":"a"}`:                   true,
		`[1,2,{"a":[]}]`:                      true,
		`[1]]`:                                false,
		`{"a":null}`:                          true,
		`{"a":9223372036854775807}`:           true,
		`{"a":9223372036854775808}`:           false,
		`{"a":-0.0}`:                          false,
		`"x"`:                                 true,
		`{"signatures":{}}`:                   true,
	} {
		if err := scan([]byte(data)); (err == nil) != ok {
			t.Errorf("%s: %v", data, err)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"a-b_c.d~9": "a-b_c.d~9", "../x": "..%2Fx", "?#%": "%3F%23%25", "ü": "%C3%BC", "": "", " \x00": "%20%00",
		"AZaz09": "AZaz09", "/:@[`{": "%2F%3A%40%5B%60%7B",
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) is %q, want %q", in, got, want)
		}
	}
}

// TestManyValues: how many values a file may have is bounded before they take
// memory, and a targets role that is as full as its limit allows is below that.
func TestManyValues(t *testing.T) {
	var full strings.Builder
	full.WriteString(`{"signatures":[],"signed":{"targets":{"z":{}`)
	for i := 0; full.Len() < 5_000_000-200; i++ {
		fmt.Fprintf(&full, `,"%x":{"length":1,"hashes":{"sha256":"%064x"}}`, i, i)
	}
	full.WriteString(`}}}`)
	if err := scan([]byte(full.String())); err != nil {
		t.Error(err)
	}
	if err := scan([]byte("[" + strings.Repeat("{},", 250_000) + "1]")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a bomb: %v", err)
	}
}
