package tuf_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/sealboot/sealboot/boot/tuf"
	"github.com/sealboot/sealboot/boot/tuf/sign"
)

// TestCanonicalForms: other tools put members of their own everywhere, and what
// is signed is the canonical form of all of them. go-tuf signs what it makes of
// a file again, so where the specification leaves no choice of form, a file in
// another form is refused: never accepted for something that was not signed.
func TestCanonicalForms(t *testing.T) {
	type m = map[string]any
	firstKey := func(s m) m {
		for _, k := range s["keys"].(m) {
			return k.(m)
		}
		return nil
	}
	const large = json.Number("9007199254740993") // no float64 is this
	digest := fmt.Sprintf("%064x", 0xabc)
	target := func(more m) func(m) {
		return func(s m) {
			file := m{"length": 0, "hashes": m{"sha256": digest}}
			for k, v := range more {
				file[k] = v
			}
			s["targets"] = m{"a": file}
		}
	}
	delegation := func(more m) func(m) {
		return func(s m) {
			role := m{"name": "a", "keyids": []any{"k"}, "threshold": 1, "terminating": false, "paths": []any{"a"}}
			for k, v := range more {
				role[k] = v
			}
			s["delegations"] = m{"x": 1, "keys": m{}, "roles": []any{role}}
		}
	}
	for name, tc := range map[string]struct {
		role string
		edit func(m)
		err  error
	}{
		"member of the role":      {"timestamp", func(s m) { s["x"] = m{"a": []any{1, nil, true, "<&>\u2028"}} }, nil},
		"member of keyval":        {"root", func(s m) { firstKey(s)["keyval"].(m)["private"] = "" }, nil},
		"member of a key":         {"root", func(s m) { firstKey(s)["x"] = m{"a": 1} }, nil},
		"member of a root's role": {"root", func(s m) { s["roles"].(m)["root"].(m)["x"] = "<&>" }, nil},
		"role of another kind":    {"root", func(s m) { s["roles"].(m)["mirrors"] = m{"keyids": []any{}, "threshold": 1} }, nil},
		"member of an entry":      {"timestamp", func(s m) { s["meta"].(m)["snapshot.json"].(m)["x"] = 1 }, nil},
		"member of a target":      {"targets", target(m{"x": "y"}), nil},
		"member of a delegation":  {"targets", delegation(m{"x": 1}), nil},
		"no paths":                {"targets", delegation(m{"paths": []any{}}), nil},
		"no delegations":          {"targets", func(s m) { s["delegations"] = m{"keys": m{}, "roles": []any{}} }, nil},
		"large number in custom":  {"targets", target(m{"custom": m{"n": large}}), nil},
		"expiry with nanoseconds": {"snapshot", func(s m) { s["expires"] = "2099-01-01T00:00:00.000000001Z" }, nil},

		"large number elsewhere": {"timestamp", func(s m) { s["x"] = large }, tuf.ErrUnverified},
		"expiry with an offset":  {"snapshot", func(s m) { s["expires"] = "2099-01-01T00:00:00+00:00" }, tuf.ErrUnverified},
		"length of zero":         {"snapshot", func(s m) { s["meta"].(m)["x.json"] = m{"version": 1, "length": 0} }, tuf.ErrUnverified},
		"capitals in a digest":   {"targets", target(m{"hashes": m{"sha256": fmt.Sprintf("%064X", 0xabc)}}), tuf.ErrUnverified},
		"null for a member":      {"targets", func(s m) { s["delegations"] = nil }, tuf.ErrUnverified},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			c := content(t, d.repo.Last(tc.role))
			tc.edit(c)
			if tc.role == "root" {
				c["version"] = 2
			}
			payload, err := cjson.EncodeCanonical(c)
			want(t, err, nil)
			signer := d.repo.Signers[tc.role][0]
			sig, err := sign.Bytes(signer.Key, payload)
			want(t, err, nil)
			data, err := json.Marshal(m{"signed": c, "signatures": []any{m{"keyid": signer.ID, "sig": fmt.Sprintf("%x", sig)}}})
			want(t, err, nil)
			if tc.role == "root" {
				d.repo.Published["root"] = append(d.repo.Published["root"], data)
			} else {
				d.repo.Published[tc.role][0] = data
			}
			want(t, d.refresh(), tc.err)
			if stored, _ := d.cfg.Store.Load(tc.role); (string(stored) == string(data)) != (tc.err == nil) {
				t.Fatalf("in the store is now\n%s", stored)
			}
		})
	}
}
