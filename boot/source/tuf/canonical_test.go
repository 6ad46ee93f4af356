package tuf_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"

	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/source/tuf"
)

// TestCanonicalForms: other tools put members of their own everywhere and write
// what they know in forms of their own. What is signed is the canonical form of
// the bytes that they wrote, and every client that verifies those takes them.
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

		"large number elsewhere": {"timestamp", func(s m) { s["x"] = m{"y": large} }, nil},
		"expiry with an offset":  {"snapshot", func(s m) { s["expires"] = "2099-01-01T00:00:00+00:00" }, nil},
		"length of zero":         {"snapshot", func(s m) { s["meta"].(m)["x.json"] = m{"version": 1, "length": 0} }, nil},
		"capitals in a digest":   {"targets", target(m{"hashes": m{"sha256": fmt.Sprintf("%064X", 0xabc)}}), nil},
		"null for a member":      {"targets", func(s m) { s["delegations"] = nil }, nil},
		"null for custom":        {"targets", target(m{"custom": nil}), nil},
		"no consistent_snapshot": {"root", func(s m) { delete(s, "consistent_snapshot") }, nil},
		"key without public":     {"root", func(s m) { s["keys"].(m)["k"] = m{"keytype": "x", "scheme": "x", "keyval": m{"certificate": "y"}} }, nil},
		"role with such a key": {"root", func(s m) {
			s["keys"].(m)["k"] = m{"keytype": "x", "scheme": "x", "keyval": m{}}
			role := s["roles"].(m)["timestamp"].(m)
			role["keyids"] = append([]any{"k"}, role["keyids"].([]any)...)
		}, nil},
		"role with a key that is not there": {"root", func(s m) {
			role := s["roles"].(m)["timestamp"].(m)
			role["keyids"] = append([]any{"k"}, role["keyids"].([]any)...)
		}, nil},

		// encoding/json takes these for what they are not called. Another
		// client does not, so the two would trust different things.
		"another case in a role":    {"timestamp", func(s m) { s["Version"] = 7 }, tuf.ErrMalformed},
		"another case in a key":     {"root", func(s m) { firstKey(s)["KeyVal"] = m{"public": "00"} }, tuf.ErrMalformed},
		"another case in keyval":    {"root", func(s m) { firstKey(s)["keyval"].(m)["PUBLIC"] = "00" }, tuf.ErrMalformed},
		"a long s in a root's role": {"root", func(s m) { s["roles"].(m)["root"].(m)["thre\u017fhold"] = 1 }, tuf.ErrMalformed},
		"another case in an entry":  {"timestamp", func(s m) { s["meta"].(m)["snapshot.json"].(m)["Length"] = 1 }, tuf.ErrMalformed},
		"another case in a target":  {"targets", target(m{"Custom": m{}}), tuf.ErrMalformed},
		"in a delegation":           {"targets", delegation(m{"Paths": []any{"*"}}), tuf.ErrMalformed},
		"in succinct roles": {"targets", func(s m) {
			s["delegations"] = m{"keys": m{}, "succinct_roles": m{"keyids": []any{"k"}, "threshold": 1, "bit_length": 1, "name_prefix": "a", "Name_Prefix": "b"}}
		}, tuf.ErrMalformed},
		"targets that differ in case": {"targets", func(s m) {
			file := m{"length": 0, "hashes": m{"sha256": digest}, "custom": m{"a": 1, "A": 2}}
			s["targets"] = m{"a": file, "A": file, "Length": file}
		}, nil},
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

// TestEnvelopeHasOneReading: anyone who sits in between can put a second "signed"
// in another case next to the one that the signature is over. What is verified
// and what is used must not come from different ones.
func TestEnvelopeHasOneReading(t *testing.T) {
	for name, change := range map[string]func(md map[string]any){
		"signed":     func(md map[string]any) { md["ſigned"] = md["signed"] },
		"signatures": func(md map[string]any) { md["Signatures"] = []any{} },
		"keyid":      func(md map[string]any) { md["signatures"].([]any)[0].(map[string]any)["KeyID"] = "x" },
		"sig":        func(md map[string]any) { md["signatures"].([]any)[0].(map[string]any)["SIG"] = "00" },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.repo.Published["timestamp"][0] = edit(t, d.repo.Last("timestamp"), change)
			want(t, d.refresh(), tuf.ErrMalformed)
		})
	}
}
