package tufrepo_test

import (
	"crypto"
	"errors"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

// TestRoleNames: a delegated role is a file on every web server, bucket and file
// system, or it is not made.
func TestRoleNames(t *testing.T) {
	f := newFixture(t)
	delegate := func(name string) error {
		_, err := f.apply(start, f.all(), tufrepo.Delegate(tufrepo.Delegation{Name: name, Paths: []string{"x/*"}, Keys: []crypto.PublicKey{f.keys["root"].Public()}}))
		return err
	}
	for _, name := range []string{"team", "Team-2_b", "7", strings.Repeat("a", 128)} {
		if err := delegate(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, why := range map[string]string{
		"": "a name of its own", "root": "a name of its own", "timestamp": "a name of its own",
		"a/b": "slashes and dots", "/": "slashes", "..": "dots", ".": "dots", ".team": "dots", "12.team": "dots", "team.json": "dots", "a\\b": "escaped",
		"a%2fb": "escaped", "a b": "escaped", "a?b": "escaped", "a#b": "escaped", "a:b": "escaped", "a*": "escaped", "a+b": "escaped", "~a": "escaped",
		"a\x00": "escaped", "a\n": "escaped", "a\x7f": "escaped", "\u00e4": "escaped", "\u202ea": "escaped", "\xff": "escaped",
		"-rf": "begin with", "_a": "begin with",
		strings.Repeat("a", 129): "129 bytes",
		"Root":                   "differs from the role root", "TARGETS": "upper and lower", "TEAM": "differs from the role team",
		"con": "device", "NUL": "device", "com1": "device", "Lpt9": "device",
	} {
		err := delegate(name)
		if !errors.Is(err, tufrepo.ErrChange) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", name, err, why)
		}
	}
	f.publish(start, f.all()) // nothing of that is left as a draft
}

// TestTargetNames: the same for targets, whose names clients escape.
func TestTargetNames(t *testing.T) {
	f := newFixture(t)
	add := func(name string) error {
		_, err := f.apply(start, f.all(), tufrepo.AddTarget(tufrepo.Target{Name: name, File: f.file("x")}))
		return err
	}
	for _, name := range []string{"os", "os/12/vmlinuz", "a b/100%/\u00e4?#.tar", "a/.hidden"} {
		if err := add(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	f.wantVersions(start, map[string]int64{"root": 1, "timestamp": 5, "snapshot": 5, "targets": 5})
	for _, name := range []string{"", "/a", "a/", "a//b", "a/./b", "../a", "a\\b", "a\x00b", "a\nb", "\xff", strings.Repeat("a", 181)} {
		if err := add(name); !errors.Is(err, tufrepo.ErrChange) || !strings.Contains(err.Error(), "target name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}
