package tufrepo_test

import (
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/publish/tufrepo"
)

var errNo = errors.New("no")

// asked opens the repository as an operator who answers with answer.
func (f *fixture) asked(state string, answer error) (r *tufrepo.Repo, shown *tufrepo.Diff) {
	f.t.Helper()
	shown = new(tufrepo.Diff)
	r, err := tufrepo.Open(f.t.Context(), f.dir, tufrepo.Operator{State: state, Confirm: func(d tufrepo.Diff) error {
		*shown = d
		return answer
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { r.Close() })
	return r, shown
}

// TestShownBeforeSigned: an operator who says no has signed nothing.
func TestShownBeforeSigned(t *testing.T) {
	f := newFixture(t)
	id := func(key crypto.Signer) string {
		_, id, err := sign.PublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := tree(t, filepath.Join(f.dir, "metadata"))
	r, shown := f.asked(f.dir+".state", errNo)
	fresh := tuftest.NewKeyOf(t, "", "ed25519")
	for what, act := range signers(f) {
		if what == "export" || what == "diff" || what == "remove" || what == "sign" {
			continue
		}
		*shown = tufrepo.Diff{}
		if err := act(r); !errors.Is(err, errNo) {
			t.Errorf("%s: %v", what, err)
		}
		if len(shown.Roles) == 0 {
			t.Errorf("%s showed nothing", what)
		}
	}
	keys := []crypto.Signer{f.keys["root"], fresh}
	_, err := r.Apply(t.Context(), start.AddDate(0, 0, 1), keys, tufrepo.RemovePublicKey("timestamp", f.keys["timestamp"].Public()), tufrepo.AddKey("timestamp", fresh.Public()))
	if !errors.Is(err, errNo) {
		t.Error(err)
	}
	_, public, _ := strings.Cut(fmt.Sprint(shown.Roles[0].Lines[1]), "{")
	want := fmt.Sprintf(`root: version 1 -> 2
  ~ expires: "2027-05-01T12:00:00Z" -> "2027-05-02T12:00:00Z"
  + keys.%s: {%s
  - roles.timestamp.keyids: "%s"
  + roles.timestamp.keyids: "%s"
  to be signed by %s
timestamp: version 1 -> 2
  ~ expires: "2026-05-08T12:00:00Z" -> "2026-05-09T12:00:00Z"
  to be signed by %s
`, id(fresh), public, id(f.keys["timestamp"]), id(fresh), id(f.keys["root"]), id(fresh))
	if diff := cmp.Diff(want, shown.String()); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, tree(t, filepath.Join(f.dir, "metadata"))); diff != "" {
		t.Errorf("published all the same (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(f.dir, ".draft")); err == nil {
		t.Error("kept as a draft all the same")
	}
}

// waiting is a repository whose draft waits for a second signature of root.
func waiting(t *testing.T) (*vandal, crypto.Signer) {
	t.Helper()
	f := newFixture(t)
	second := tuftest.NewKey(t)
	f.publish(start, append(f.all(), second), tufrepo.AddKey("root", second.Public()), tufrepo.SetThreshold("root", 2))
	s, err := f.apply(start, []crypto.Signer{f.keys["root"]}, tufrepo.AddKey("targets", second.Public()))
	if err != nil || s.Published {
		t.Fatal(s, err)
	}
	return &vandal{t: t, f: f}, second
}

// TestDraftEditedBetweenSigners: the second signer sees a draft that somebody has
// changed on the way, and its first signature does not hide it.
func TestDraftEditedBetweenSigners(t *testing.T) {
	foreign := tuftest.NewKey(t)
	for name, strip := range map[string]bool{"signature left": false, "signature taken away": true} {
		t.Run(name, func(t *testing.T) {
			v, second := waiting(t)
			other := v.f.dir + ".second" // the second signer's
			r, shown := v.f.asked(other, errNo)
			v.must(r.Begin(t.Context(), v.f.rootFile()))
			if _, err := r.Apply(t.Context(), start, []crypto.Signer{second}); !errors.Is(err, errNo) || !shown.Foreign || len(shown.Roles[0].Signed) != 1 {
				t.Fatalf("the draft of the first: %v, %+v", err, shown)
			}
			v.edit("../.draft/root.json", func(s map[string]any) { v.grant(s, "snapshot", foreign.Public()) })
			if strip {
				v.unsign("../.draft/root.json")
			}
			*shown = tufrepo.Diff{}
			_, err := r.Apply(t.Context(), start, []crypto.Signer{second})
			if !strip {
				wantRefused(t, err, tufrepo.ErrDraft, "was changed after the key")
				return
			}
			if !errors.Is(err, errNo) || !shown.Foreign || len(shown.Roles[0].Signed) != 0 || !strings.Contains(shown.String(), "+ roles.snapshot.keyids") {
				t.Errorf("%v, %s", err, shown)
			}
		})
	}
}

// TestDraftOnTerminal: nothing of a draft reaches a terminal that this takes for more than
// letters. What a draft lacks is printed before anybody has vouched for it.
func TestDraftOnTerminal(t *testing.T) {
	v, _ := waiting(t)
	const id = "\x1b[2Jpublished"
	v.edit("../.draft/root.json", func(s map[string]any) {
		roles, keys := s["roles"].(map[string]any), s["keys"].(map[string]any)
		root := roles["root"].(map[string]any)
		ids := root["keyids"].([]any)
		keys[id] = keys[ids[0].(string)]
		root["keyids"] = append(ids, id)
	})
	v.unsign("../.draft/root.json")
	r := v.f.open()
	defer r.Close()
	s, err := r.Apply(t.Context(), start, nil)
	wantRefused(t, err, tufrepo.ErrDraft, `a key called "\x1b[2Jpublished"`)
	if slices.Contains(s.Missing["root"].Keys, id) || err != nil && strings.Contains(err.Error(), "\x1b") {
		t.Errorf("to be printed: %q, %v", s.Missing["root"].Keys, err)
	}
}

// unsign takes all signatures away.
func (v *vandal) unsign(name string) {
	v.t.Helper()
	data, err := os.ReadFile(v.file(name))
	v.must(err)
	head, tail, _ := strings.Cut(string(data), `"signatures":[`)
	_, tail, _ = strings.Cut(tail, "]")
	v.must(os.WriteFile(v.file(name), []byte(head+`"signatures":[]`+tail), 0o644))
}

// TestForeignDraft: a draft that lies in the directory is not taken along by a script
// that publishes something else.
func TestForeignDraft(t *testing.T) {
	v, second := waiting(t)
	f := v.f
	r, shown := f.asked(f.dir+".second", nil)
	v.must(r.Begin(t.Context(), f.rootFile()))
	add := tufrepo.AddTarget(tufrepo.Target{Name: "os", File: f.file("os")})
	_, err := r.Apply(t.Context(), start, f.all(), add)
	wantRefused(t, err, tufrepo.ErrDraft, "sealboot tuf diff")
	if s, err := r.Renew(t.Context(), start, f.all(), tufrepo.Refresh("timestamp")); err != nil || !s.Published || len(shown.Roles) != 1 || shown.Draft != "" {
		t.Errorf("%+v, %v, %s", s, err, shown)
	}
	if s, err := r.Apply(t.Context(), start, nil); err != nil || s.Missing["root"].Need != 1 { // a look is no approval
		t.Errorf("%+v, %v", s, err)
	}
	d, err := r.Diff(t.Context(), start)
	if err != nil || !d.Foreign || !strings.Contains(d.String(), "draft "+d.Draft+" (from somewhere else)\n") {
		t.Errorf("%s, %v", d, err)
	}
	if s, err := r.Apply(t.Context(), start, []crypto.Signer{second}); err != nil || !s.Published || shown.Draft != d.Draft {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := r.Apply(t.Context(), start, f.all(), add); err != nil || !s.Published {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestNoFileOfADraft: nothing in the directory keeps a publisher waiting, or is read
// that is not below it.
func TestNoFileOfADraft(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(file string) error{
		"pipe":      func(file string) error { return unix.Mkfifo(file, 0o644) },
		"directory": func(file string) error { return os.Mkdir(file, 0o755) },
		"link":      func(file string) error { return os.Symlink(outside, file) },
		"large":     func(file string) error { return errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, 1<<40)) },
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := waiting(t)
			file := v.file("../.draft/root.json")
			v.must(errors.Join(os.Remove(file), put(file)))
			if _, err := v.f.apply(start, v.f.all()); err == nil || !strings.Contains(err.Error(), "the draft") {
				t.Errorf("in the draft: %v", err)
			}
			v.must(os.RemoveAll(v.file("../.draft")))
			v.must(put(v.file("9.junk.json")))
			www := t.TempDir()
			v.must(errors.Join(os.Mkdir(filepath.Join(www, "metadata"), 0o755), put(filepath.Join(www, "metadata", "root.json"))))
			v.f.publish(start, v.f.all(), tufrepo.AddTarget(tufrepo.Target{Name: "os", File: v.f.file("os")}))
			r := v.f.open()
			defer r.Close()
			// What is no file does not go along, and what was there is replaced.
			if err := r.Export(t.Context(), www); (err != nil) != (name == "large") {
				t.Errorf("exported: %v", err)
			}
		})
	}
}

// TestNameInADraft: what names itself is not what a terminal obeys.
func TestNameInADraft(t *testing.T) {
	v, _ := waiting(t)
	v.must(os.WriteFile(v.file("../.draft/a%1b%5B2Kb.json"), []byte("{}"), 0o644))
	_, err := v.f.apply(start, v.f.all())
	wantRefused(t, err, tufrepo.ErrDraft, `a role called "a\x1b[2Kb"`)
}

// TestMalformedDraft: a draft is read as strictly as what devices read, and no
// shape of it is more than an error.
func TestMalformedDraft(t *testing.T) {
	for _, content := range []string{
		`{}`, `{"signed":{"_type":"root","spec_version":"1.0","version":3,"expires":"2030-01-01T00:00:00Z","keys":{},"roles":{}},"signatures":[]}`,
		`{"signed":null,"signatures":null}`, `[]`, `{"signatures":[],"signatures":[]}`,
	} {
		v, _ := waiting(t)
		v.must(os.WriteFile(v.file("../.draft/root.json"), []byte(content), 0o644))
		if _, err := v.f.apply(start, v.f.all()); err == nil || !strings.Contains(err.Error(), "the draft") {
			t.Errorf("%s: %v", content, err)
		}
	}
}
