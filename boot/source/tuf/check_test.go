package tuf

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestChecks changes one thing in what a role must contain and wants to be told which. No signature is involved:
// anyone who holds a role's keys can sign nonsense.
func TestChecks(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		t.Fatal(err)
	}
	full, large := *key, *key // the longest key, and one that is longer
	full.Value.PublicKey = strings.Repeat("a", maxKeyBytes)
	large.Value.PublicKey = full.Value.PublicKey + "a"
	expires := time.Now().Add(time.Hour)
	root := func(change func(*metadata.RootType)) error {
		r := &metadata.Root(expires).Signed
		for _, role := range r.Roles {
			role.KeyIDs, role.Threshold = []string{id}, 1
		}
		r.Keys[id] = key
		change(r)
		return checkRoot(r)
	}
	targets := func(change func(*metadata.TargetsType)) error {
		s := &metadata.Targets(expires).Signed
		s.Targets["os"] = &metadata.TargetFiles{Length: 1}
		s.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{id: key}, Roles: []metadata.DelegatedRole{
			{Name: "team", KeyIDs: []string{id}, Threshold: 1, Paths: []string{"*"}}}}
		change(s)
		return checkTargets(s)
	}
	succinct := func(change func(*metadata.Delegations)) error {
		return targets(func(s *metadata.TargetsType) {
			s.Delegations.Roles = nil
			s.Delegations.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: []string{id}, Threshold: 1, BitLength: 2, NamePrefix: "bin"}
			change(s.Delegations)
		})
	}
	timestamp := func(change func(*metadata.TimestampType)) error {
		s := &metadata.Timestamp(expires).Signed
		change(s)
		return checkTimestamp(s)
	}
	snapshot := func(change func(*metadata.SnapshotType)) error {
		s := &metadata.Snapshot(expires).Signed
		change(s)
		return checkSnapshot(s)
	}
	seal := func(change func(*metadata.TargetsType)) error {
		s := &metadata.Targets(expires).Signed
		s.Type, s.Targets[sealedFile] = SealType, &metadata.TargetFiles{}
		change(s)
		return checkSeal(s)
	}
	for _, c := range []struct {
		want string // empty: nothing is wrong
		err  error
	}{
		{"", root(func(*metadata.RootType) {})},
		{"its type is", root(func(r *metadata.RootType) { r.Type = RoleTargets })},
		{"follows version", root(func(r *metadata.RootType) { r.SpecVersion = "2.0" })},
		{"version 0", root(func(r *metadata.RootType) { r.Version = 0 })},
		{"no expiry", root(func(r *metadata.RootType) { r.Expires = time.Time{} })},
		{"no role snapshot", root(func(r *metadata.RootType) { delete(r.Roles, RoleSnapshot) })},
		{"no threshold", root(func(r *metadata.RootType) { r.Roles[RoleTargets].Threshold = 0 })},
		{"no keys", root(func(r *metadata.RootType) { r.Roles[RoleTargets].KeyIDs = nil })},
		{"is missing", root(func(r *metadata.RootType) { r.Keys["x"] = nil })},
		{"", root(func(r *metadata.RootType) { r.Keys["x"] = &full })},
		{"larger than", root(func(r *metadata.RootType) { r.Keys["x"] = &large })},

		{"", timestamp(func(*metadata.TimestampType) {})},
		{"its type is", timestamp(func(s *metadata.TimestampType) { s.Type = RoleSnapshot })},
		{"its type is", snapshot(func(s *metadata.SnapshotType) { s.Type = RoleTimestamp })},
		{"its type is", targets(func(s *metadata.TargetsType) { s.Type = SealType })},
		{"does not name a snapshot", timestamp(func(s *metadata.TimestampType) { s.Meta = nil })},
		{"no version", timestamp(func(s *metadata.TimestampType) { s.Meta["snapshot.json"].Version = 0 })},
		{"negative length", timestamp(func(s *metadata.TimestampType) { s.Meta["snapshot.json"].Length = -1 })},
		{"", snapshot(func(*metadata.SnapshotType) {})},
		{"does not name a targets", snapshot(func(s *metadata.SnapshotType) { s.Meta = nil })},
		{"its entry for", snapshot(func(s *metadata.SnapshotType) { s.Meta["team.json"] = nil })},

		{"", targets(func(*metadata.TargetsType) {})},
		{"", targets(func(s *metadata.TargetsType) { s.Delegations = nil })},
		{"no content", targets(func(s *metadata.TargetsType) { s.Targets["os"] = nil })},
		{"negative length", targets(func(s *metadata.TargetsType) { s.Targets["os"].Length = -1 })},
		{"is missing", targets(func(s *metadata.TargetsType) { s.Delegations.Keys["x"] = nil })},
		{"", targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].Name = strings.Repeat("a", maxRoleName) })},
		{fmt.Sprintf("has %d bytes", maxRoleName+1), targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].Name = strings.Repeat("a", maxRoleName+1) })},
		{"has 0 bytes", targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].Name = "" })},
		{"top-level role root", targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].Name = RoleRoot })},
		{"no threshold", targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].Threshold = 0 })},
		{"both paths and", targets(func(s *metadata.TargetsType) { s.Delegations.Roles[0].PathHashPrefixes = []string{"00"} })},
		{"delegates twice", targets(func(s *metadata.TargetsType) {
			s.Delegations.Roles = append(s.Delegations.Roles, s.Delegations.Roles[0])
		})},
		{"", succinct(func(*metadata.Delegations) {})},
		{"both roles and succinct", succinct(func(d *metadata.Delegations) { d.Roles = []metadata.DelegatedRole{} })},
		{"has 0 bytes", succinct(func(d *metadata.Delegations) { d.SuccinctRoles.NamePrefix = "" })},
		{"no keys", succinct(func(d *metadata.Delegations) { d.SuccinctRoles.KeyIDs = nil })},

		{"", seal(func(*metadata.TargetsType) {})},
		{"its type is", seal(func(s *metadata.TargetsType) { s.Type = RoleTargets })},
		{"it has delegations", seal(func(s *metadata.TargetsType) { s.Delegations = &metadata.Delegations{} })},
		{"does not name a timestamp", seal(func(s *metadata.TargetsType) { s.Targets[sealedFile] = nil })},
	} {
		if c.want == "" && c.err != nil {
			t.Errorf("good metadata: %v", c.err)
		}
		if c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
			t.Errorf("error is %v, want one with %q", c.err, c.want)
		}
	}
}

// TestScan has what must be refused before anything else looks at it.
func TestScan(t *testing.T) {
	for _, c := range []struct{ want, data string }{
		{"", `{"signed":{"_type":"timestamp","n":[1,-2,{}]},"signatures":[{"sig":"00"}]}` + "\n"},
		{"", strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)},
		{"nested deeper", strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)},
		{"", `{"signatures":[` + strings.Repeat(`{},`, maxSignatures-1) + `{}]}`},
		{"signatures", `{"signatures":[` + strings.Repeat(`{},`, maxSignatures) + `{}]}`},
		{"", `[` + strings.Repeat(`0,`, maxValues-3) + `0]`}, // the brackets count too
		{"values", `[` + strings.Repeat(`0,`, maxValues-2) + `0]`},
		{"values", `[` + strings.Repeat(`0,`, maxValues) + `0]`},
		{"appears twice", `{"a":{"b":1,"c":2,"b":3}}`},
		{"appears twice", `{"a":1,"\u0061":2}`},
		{"something follows", `{}{}`},
		{"64-bit integer", `{"n":1.5}`},
		{"64-bit integer", `{"n":1e3}`},
		{"64-bit integer", `{"n":9223372036854775808}`},
		{"unexpected EOF", `{"a":[1,2`},
		{"unexpected EOF", ``},
	} {
		err := scan([]byte(c.data))
		if c.want == "" && err != nil {
			t.Errorf("%.40s: %v", c.data, err)
		}
		if c.want != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.40s: %v, want %v with %q", c.data, err, ErrMalformed, c.want)
		}
	}
}

func TestTargetNeedsADigest(t *testing.T) {
	for hash, ok := range map[string]bool{"sha256": true, "sha512": true, "md5": false, "": false} {
		f := &metadata.TargetFiles{Length: 1, Hashes: metadata.Hashes{}}
		if hash != "" {
			f.Hashes[hash] = make([]byte, map[string]int{"sha256": 32, "sha512": 64, "md5": 16}[hash])
		}
		if _, err := newTarget("os", f, RoleTargets, 1); (err == nil) != ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("a target with hash %q: %v", hash, err)
		}
	}
}

// TestWant has the bytes that are wanted, and those that differ in one way.
func TestWant(t *testing.T) {
	const data = "data"
	short, long := sha256.Sum256([]byte(data)), sha512.Sum512([]byte(data))
	for _, c := range []struct {
		want, data string // want is empty if nothing is wrong
		is         Want
	}{
		{"", data, Want{Size: 4, SHA256: short[:]}},
		{"", data, Want{Size: 4, SHA512: long[:]}},
		{"", data, Want{Size: 4, SHA256: short[:], SHA512: long[:]}},
		{"no digest", data, Want{Size: 4}},
		{"more than the 3 bytes", data, Want{Size: 3, SHA256: short[:]}},
		{"4 bytes, expected 5", data, Want{Size: 5, SHA256: short[:]}},
		{"expected 3a6e", "date", Want{Size: 4, SHA256: short[:]}},
		{"expected 0000", data, Want{Size: 4, SHA256: short[:], SHA512: make([]byte, 64)}},
	} {
		// A seal refuses a timestamp for the same reasons.
		for _, err := range []error{c.is.Check(strings.NewReader(c.data)), (&seal{c.is}).check([]byte(c.data))} {
			if c.want == "" && err != nil {
				t.Errorf("%+v: %v", c.is, err)
			}
			if c.want != "" && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v: %v, want %v with %q", c.is, err, ErrMismatch, c.want)
			}
		}
	}
	if err := (&seal{Want{Size: 4}}).check(nil); !errors.Is(err, ErrUnverified) {
		t.Errorf("a timestamp that was not sealed: %v", err)
	}
}
