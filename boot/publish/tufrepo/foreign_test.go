package tufrepo_test

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

type jsonObject = map[string]any

// signedPart reads what a metadata file's keys signed, with numbers as they are.
func signedPart(t *testing.T, file string) jsonObject {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var md struct {
		Signed jsonObject `json:"signed"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&md); err != nil {
		t.Fatal(err)
	}
	return md.Signed
}

// rewrite changes a metadata file as another tool would have written it, in its
// place, and returns it.
func (f *fixture) rewrite(name string, key crypto.Signer, edit func(signed jsonObject)) []byte {
	f.t.Helper()
	file := filepath.Join(f.dir, "metadata", name)
	signed := signedPart(f.t, file)
	edit(signed)
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		f.t.Fatal(err)
	}
	sig, err := sign.Bytes(key, payload)
	if err != nil {
		f.t.Fatal(err)
	}
	_, id, err := sign.PublicKey(key.Public())
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := json.MarshalIndent(jsonObject{"signatures": []jsonObject{{"keyid": id, "sig": hex.EncodeToString(sig)}}, "signed": signed}, "", " ")
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		f.t.Fatal(err)
	}
	return data
}

// TestForeignFieldsSurvive: what other tools put into a repository is signed again
// as it was. A number above 2^53 came out as another one, and no one was told.
func TestForeignFieldsSurvive(t *testing.T) {
	const large = json.Number("9007199254740993") // no float64 is this
	f := newFixture(t)
	team := tuftest.NewKeyOf(t, "", "ed25519")
	f.publish(start, append(f.all(), team),
		tufrepo.AddTarget(tufrepo.Target{Name: "os/kernel", File: f.file("kernel")}),
		tufrepo.AddTarget(tufrepo.Target{Name: "os/initrd", File: f.file("initrd")}),
		tufrepo.Delegate(tufrepo.Delegation{Name: "team", Paths: []string{"team/*"}, Keys: []crypto.PublicKey{team.Public()}}),
		tufrepo.AddTarget(tufrepo.Target{Role: "team", Name: "team/uki", File: f.file("uki")}))

	pgp := jsonObject{"keytype": "pgp", "scheme": "pgp", "keyval": jsonObject{"certificate": "x"}}
	foreign := jsonObject{"a": []any{large, nil, jsonObject{"b": large}}}
	root := f.rewrite("1.root.json", f.keys["root"], func(s jsonObject) {
		s["x"], s["keys"].(jsonObject)["pgp"] = foreign, pgp
		s["roles"].(jsonObject)["snapshot"].(jsonObject)["x"] = large
	})
	inTeam := f.rewrite("1.team.json", team, func(s jsonObject) {
		s["x"], s["targets"].(jsonObject)["team/uki"].(jsonObject)["custom"] = large, nil
	})
	f.rewrite("2.targets.json", f.keys["targets"], func(s jsonObject) {
		s["x"], s["targets"].(jsonObject)["os/kernel"].(jsonObject)["custom"] = foreign, nil
		s["targets"].(jsonObject)["os/kernel"].(jsonObject)["x"] = large
		d := s["delegations"].(jsonObject)
		d["keys"].(jsonObject)["pgp"], d["x"], d["roles"].([]any)[0].(jsonObject)["x"] = pgp, large, foreign
	})
	f.rewrite("2.snapshot.json", f.keys["snapshot"], func(s jsonObject) {
		s["x"] = large
		s["meta"].(jsonObject)["team.json"].(jsonObject)["x"] = large
	})
	f.rewrite("timestamp.json", f.keys["timestamp"], func(s jsonObject) { s["x"] = foreign })

	operator := tufrepo.Operator{State: f.dir + ".other"}
	do := func(keys []crypto.Signer, changes ...tufrepo.Change) {
		t.Helper()
		r, err := tufrepo.Open(t.Context(), f.dir, operator)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Trust(); err != nil {
			if err := r.Begin(t.Context(), root); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := r.Apply(t.Context(), start, keys, changes...); err != nil || !s.Published {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	at := func(name string) string { return filepath.Join(f.dir, "metadata", name) }
	same := func(before, after string, changed ...string) {
		t.Helper()
		a, b := signedPart(t, at(before)), signedPart(t, at(after))
		for _, name := range append(changed, "version", "expires") {
			delete(a, name)
			delete(b, name)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s after %s (-before +after):\n%s", after, before, diff)
		}
	}
	old := signedPart(t, at("timestamp.json"))

	do(f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "os/new", File: f.file("new")}), tufrepo.RemoveTarget("targets", "os/initrd"))
	same("2.targets.json", "3.targets.json", "targets")
	kernel := func(name string) any { return signedPart(t, at(name))["targets"].(jsonObject)["os/kernel"] }
	if diff := cmp.Diff(kernel("2.targets.json"), kernel("3.targets.json")); diff != "" {
		t.Errorf("a target that was not changed (-before +after):\n%s", diff)
	}
	targets := signedPart(t, at("3.targets.json"))["targets"].(jsonObject)
	if targets["os/initrd"] != nil || targets["os/new"] == nil {
		t.Errorf("targets are %v", targets)
	}
	same("2.snapshot.json", "3.snapshot.json", "meta")
	if got := signedPart(t, at("3.snapshot.json"))["meta"].(jsonObject)["team.json"].(jsonObject)["x"]; got != large {
		t.Errorf("the snapshot's entry of a role that was not changed has %v", got)
	}
	if diff := cmp.Diff(old["x"], signedPart(t, at("timestamp.json"))["x"]); diff != "" {
		t.Errorf("timestamp (-before +after):\n%s", diff)
	}

	do(f.all(), tufrepo.AddKey("targets", tuftest.NewKeyOf(t, "", "ed25519").Public()))
	same("1.root.json", "2.root.json", "keys", "roles")
	keys := signedPart(t, at("2.root.json"))["keys"].(jsonObject)
	if diff := cmp.Diff(any(pgp), keys["pgp"]); diff != "" {
		t.Errorf("a key of an unknown kind (-before +after):\n%s", diff)
	}
	if got := signedPart(t, at("2.root.json"))["roles"].(jsonObject)["snapshot"].(jsonObject)["x"]; got != large {
		t.Errorf("a role that was not changed has %v", got)
	}
	for name, want := range map[string][]byte{"1.root.json": root, "1.team.json": inTeam} {
		if got, err := os.ReadFile(at(name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s was not changed and is now\n%s\n%v", name, got, err)
		}
	}
}
