package tuf_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
	"github.com/sealboot/sealboot/boot/source/tuf"
	"github.com/sealboot/sealboot/boot/source/tuf/store"
)

// signed makes metadata of any content with good signatures.
func signed(t *testing.T, content map[string]any, signers ...tuftest.Signer) []byte {
	t.Helper()
	payload, err := cjson.EncodeCanonical(content)
	if err != nil {
		t.Fatal(err)
	}
	var sigs []string
	for _, s := range signers {
		sig, err := sign.Bytes(s.Key, payload)
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, fmt.Sprintf(`{"keyid":%q,"sig":"%x"}`, s.ID, sig))
	}
	return []byte(fmt.Sprintf(`{"signed":%s,"signatures":[%s]}`, payload, strings.Join(sigs, ",")))
}

func content(t *testing.T, data []byte) map[string]any {
	var out map[string]any
	edit(t, data, func(md map[string]any) { out = md["signed"].(map[string]any) })
	return out
}

// TestSignedNonsense serves files with good signatures and bad content, of the
// kind that parsers die of.
func TestSignedNonsense(t *testing.T) {
	type m = map[string]any
	nested := func(n int) any {
		var v any = "x"
		for range n {
			v = []any{v}
		}
		return v
	}
	for name, tc := range map[string]struct {
		role string
		edit func(m)
	}{
		"timestamp without snapshot":  {"timestamp", func(s m) { s["meta"] = m{} }},
		"timestamp meta null":         {"timestamp", func(s m) { s["meta"] = nil }},
		"timestamp snapshot null":     {"timestamp", func(s m) { s["meta"].(m)["snapshot.json"] = nil }},
		"timestamp version null":      {"timestamp", func(s m) { s["version"] = nil }},
		"timestamp version zero":      {"timestamp", func(s m) { s["version"] = 0 }},
		"timestamp version negative":  {"timestamp", func(s m) { s["version"] = -1 }},
		"timestamp version string":    {"timestamp", func(s m) { s["version"] = "1" }},
		"timestamp no expiry":         {"timestamp", func(s m) { delete(s, "expires") }},
		"timestamp snapshot negative": {"timestamp", func(s m) { s["meta"].(m)["snapshot.json"] = m{"version": -5} }},
		"timestamp length negative":   {"timestamp", func(s m) { s["meta"].(m)["snapshot.json"] = m{"version": 1, "length": -5} }},
		"timestamp of other major":    {"timestamp", func(s m) { s["spec_version"] = "2.0.0" }},
		"timestamp deep":              {"timestamp", func(s m) { s["x"] = nested(100) }},
		"snapshot without targets":    {"snapshot", func(s m) { s["meta"] = m{} }},
		"snapshot entry null":         {"snapshot", func(s m) { s["meta"].(m)["x.json"] = nil }},
		"targets null":                {"targets", func(s m) { s["targets"] = m{"a": nil} }},
		"target without hashes":       {"targets", func(s m) { s["targets"] = m{"a": m{"length": 1}} }},
		"target length negative":      {"targets", func(s m) { s["targets"] = m{"a": m{"length": -1, "hashes": m{"sha256": "00"}}} }},
		"target hashes null":          {"targets", func(s m) { s["targets"] = m{"a": m{"length": 1, "hashes": nil}} }},
		"delegated key null":          {"targets", func(s m) { s["delegations"] = m{"keys": m{"a": nil}, "roles": []any{}} }},
		"delegation to root":          {"targets", func(s m) { s["delegations"] = delegationTo("root", 1) }},
		"delegation to timestamp":     {"targets", func(s m) { s["delegations"] = delegationTo("timestamp", 1) }},
		"delegation without name":     {"targets", func(s m) { s["delegations"] = delegationTo("", 1) }},
		"delegation threshold zero":   {"targets", func(s m) { s["delegations"] = delegationTo("a", 0) }},
		"delegation of long name":     {"targets", func(s m) { s["delegations"] = delegationTo(strings.Repeat("a", 5000), 1) }},
		"bins of no bits":             {"targets", func(s m) { s["delegations"] = bins(0) }},
		"bins of 33 bits":             {"targets", func(s m) { s["delegations"] = bins(33) }},
		"root without snapshot":       {"root", func(s m) { delete(s["roles"].(m), "snapshot") }},
		"root role null":              {"root", func(s m) { s["roles"].(m)["targets"] = nil }},
		"root key null":               {"root", func(s m) { s["keys"].(m)["a"] = nil }},
		"root threshold zero":         {"root", func(s m) { s["roles"].(m)["timestamp"].(m)["threshold"] = 0 }},
		"root huge key":               {"root", func(s m) { s["keys"].(m)["a"] = key("ed25519", strings.Repeat("0", 20000)) }},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			c := content(t, d.repo.Last(tc.role))
			tc.edit(c)
			if tc.role == "root" {
				c["version"] = 2
			}
			data := signed(t, c, d.repo.Signers[tc.role]...)
			if tc.role == "root" {
				d.repo.Published["root"] = append(d.repo.Published["root"], data)
			} else {
				d.repo.Published[tc.role][0] = data
			}
			err := d.refresh()
			if !errors.Is(err, tuf.ErrMalformed) && !errors.Is(err, tuf.ErrExpired) {
				t.Fatalf("got %v", err)
			}
			if _, err := d.cfg.Store.Load(tc.role); tc.role != "root" && err == nil {
				t.Fatal("it was stored")
			}
		})
	}
}

func delegationTo(name string, threshold int) any {
	return map[string]any{"keys": map[string]any{}, "roles": []any{map[string]any{
		"name": name, "keyids": []any{"a"}, "threshold": threshold, "terminating": false, "paths": []any{"*"}}}}
}

func bins(bits int) any {
	return map[string]any{"keys": map[string]any{}, "succinct_roles": map[string]any{
		"keyids": []any{"a"}, "threshold": 1, "bit_length": bits, "name_prefix": "bin"}}
}

func key(keytype, public string) any {
	return map[string]any{"keytype": keytype, "scheme": keytype, "keyval": map[string]any{"public": public}}
}

// TestShortKeyOfARole: crypto/ed25519 panics on a key of the wrong length.
func TestShortKeyOfARole(t *testing.T) {
	for _, role := range []string{"root", "timestamp"} {
		d := newDevice(t)
		c := content(t, d.repo.Last("root"))
		c["version"] = 2
		c["keys"].(map[string]any)["short"] = key("ed25519", "abcd")
		r := c["roles"].(map[string]any)[role].(map[string]any)
		r["keyids"] = append([]any{"short"}, r["keyids"].([]any)...)
		short := tuftest.Signer{ID: "short", Key: d.repo.Signers["root"][0].Key}
		d.repo.Published["root"] = append(d.repo.Published["root"], signed(t, c, d.repo.Signers["root"][0], short))
		if err := d.refresh(); err == nil {
			t.Errorf("%s with a short key was accepted", role)
		}
		if _, err := tuf.New(tuf.Config{TrustedRoot: d.repo.Last("root"), Store: &store.Memory{}, Repositories: d.cfg.Repositories, Now: d.cfg.Now}); role == "root" && err == nil {
			t.Error("a trusted root with a short key was accepted")
		}
	}
}

// TestBombs serves files without good signatures that are expensive to parse.
func TestBombs(t *testing.T) {
	sigs := `{"signed":{"_type":"timestamp"},"signatures":[` + strings.Repeat(`{"keyid":"a","sig":"00"},`, 400) + `{}]}`
	for name, data := range map[string]string{
		"empty":            "",
		"null":             "null",
		"number":           "1",
		"deep array":       strings.Repeat("[", 16000),
		"deep object":      strings.Repeat(`{"a":`, 3000),
		"many signatures":  sigs,
		"repeated name":    `{"signed":{"_type":"timestamp","_type":"root"},"signatures":[]}`,
		"two values":       `{}{}`,
		"float":            `{"signed":{"version":1.5}}`,
		"exponent":         `{"signed":{"version":1e3}}`,
		"huge number":      `{"signed":{"version":99999999999999999999}}`,
		"not UTF-8":        "{\"signed\xff\":{}}",
		"signed is null":   `{"signed":null,"signatures":[]}`,
		"signatures null":  `{"signed":{},"signatures":null}`,
		"signature null":   `{"signed":{},"signatures":[null]}`,
		"nothing but type": `{"signed":{"_type":"timestamp"},"signatures":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t)
			d.repo.Published["timestamp"][0] = []byte(data)
			want(t, d.refresh(), tuf.ErrMalformed)
		})
	}
}

func TestOversize(t *testing.T) {
	for role, max := range map[string]int{"2.root.json": 512_000, "timestamp.json": 16_384, "1.snapshot.json": 2_000_000, "1.targets.json": 5_000_000} {
		for _, announced := range []bool{true, false} {
			d := newDevice(t)
			d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/"+role) {
					return false
				}
				if announced {
					w.Header().Set("Content-Length", fmt.Sprint(max+1))
				}
				_, _ = w.Write(bytes.Repeat([]byte(" "), max+1))
				return true
			}
			if err := d.refresh(); !errors.Is(err, tuf.ErrTooLarge) {
				t.Errorf("%s: %v", role, err)
			}
		}
	}
}

// TestOversizeStops: what is too large is not read to its end, whichever side has to notice.
func TestOversizeStops(t *testing.T) {
	for want, before := range map[string]func(http.ResponseWriter){
		"101 bytes, at most 100": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "101") },
		"more than 100 bytes":    func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, // no length is announced
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			before(w)
			_, _ = w.Write(make([]byte, 101))
		}))
		_, err := tuf.Web{URL: server.URL}.Metadata(t.Context(), "x.json", 100)
		server.Close()
		if !errors.Is(err, tuf.ErrTooLarge) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %v with %q", err, tuf.ErrTooLarge, want)
		}
	}
	d := newDevice(t)
	d.cfg.Repositories = []tuf.Repository{overfull{}}
	want(t, d.refresh(), tuf.ErrTooLarge)
}

// overfull is a repository that ignores the limit.
type overfull struct{}

func (overfull) String() string { return "overfull" }

func (overfull) Metadata(_ context.Context, name string, max int64) ([]byte, error) {
	if strings.HasSuffix(name, ".root.json") {
		return nil, tuf.ErrNotFound
	}
	return make([]byte, max+1), nil
}

// TestBeforeRefresh: a client that has verified nothing answers nothing.
func TestBeforeRefresh(t *testing.T) {
	d := newDevice(t)
	c := d.client()
	_, state := c.State()
	_, find := c.Find(t.Context(), "os")
	_, download := c.Download(t.Context(), &tuf.Target{Name: "os"})
	want(t, c.Refresh(t.Context()), nil)
	d.cfg.Targets = nil
	c = d.client()
	want(t, c.Refresh(t.Context()), nil)
	_, nowhere := c.Download(t.Context(), &tuf.Target{Name: "os"})
	for name, err := range map[string]error{"State": state, "Find": find, "Download": download, "Download without Targets": nowhere} {
		if err == nil || !strings.Contains(err.Error(), "there is no verified metadata") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRoleOutsideTheSnapshot: a role that somebody delegates to, and that the snapshot does not know.
func TestRoleOutsideTheSnapshot(t *testing.T) {
	d := newDevice(t)
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "team", Threshold: 1, Paths: []string{"*"}})
	d.repo.Publish("team", "targets")
	delete(d.repo.Snapshot.Signed.Meta, "team.json")
	d.repo.Publish("snapshot", "timestamp")
	_, err := d.get("file")
	want(t, err, tuf.ErrUnverified)
}

// TestSlow: a server that sends nothing, or hardly anything, ends by the limit.
func TestSlow(t *testing.T) {
	d := newDevice(t)
	d.cfg.Limits.MetadataWait, d.cfg.Limits.Timestamp = 50*time.Millisecond, 2000
	d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/timestamp.json") {
			return false
		}
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
		return true
	}
	want(t, d.refresh(), context.DeadlineExceeded)
}

func TestCancel(t *testing.T) {
	d := newDevice(t)
	ctx, cancel := context.WithCancel(t.Context())
	d.repo.Intercept = func(http.ResponseWriter, *http.Request) bool { cancel(); return false }
	want(t, d.client().Refresh(ctx), context.Canceled)
}

func TestRootWalkEnds(t *testing.T) {
	for status, ends := range map[int]bool{404: true, 403: true, 400: false, 401: false, 410: false, 429: false, 500: false, 503: false, 204: false} {
		d := newDevice(t)
		d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/2.root.json") {
				w.WriteHeader(status)
				return true
			}
			return false
		}
		if err := d.refresh(); (err == nil) != ends {
			t.Errorf("status %d: %v", status, err)
		}
	}
	d := newDevice(t)
	d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }
	if d.refresh() == nil {
		t.Error("a cut connection ended the walk")
	}
	d = newDevice(t)
	d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/timestamp.json") {
			w.WriteHeader(403)
			return true
		}
		return false
	}
	want(t, d.refresh(), tuf.ErrForbidden)
}

func TestRootRotationsAreBounded(t *testing.T) {
	d := newDevice(t)
	d.cfg.Limits.RootRotations = 3
	for range 8 {
		d.repo.Publish("root")
	}
	for _, version := range []int64{4, 7, 9} { // goes on where it stopped
		want(t, d.refresh(), nil)
		data, err := d.cfg.Store.Load("root")
		want(t, err, nil)
		if v := content(t, data)["version"]; v != float64(version) {
			t.Fatalf("root %v, want %d", v, version)
		}
	}
}

func TestRedirects(t *testing.T) {
	d := newDevice(t)
	loops := 0
	d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.RawQuery == "" && strings.HasSuffix(r.URL.Path, "timestamp.json") {
			http.Redirect(w, r, r.URL.Path+"?here", http.StatusFound)
			return true
		}
		return false
	}
	want(t, d.refresh(), nil)
	d.repo.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		loops++
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	}
	if d.refresh() == nil || loops > 10 {
		t.Fatalf("%d redirects", loops)
	}
}

// TestRedirectOutOfTLS: what TLS kept private must not go on in clear.
func TestRedirectOutOfTLS(t *testing.T) {
	asked := false
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	w := tuf.Web{URL: secure.URL, Client: secure.Client()}
	if _, err := w.Metadata(t.Context(), "timestamp.json", 100); err == nil || !strings.Contains(err.Error(), "away from TLS") {
		t.Errorf("error is %v, want one that names the redirect", err)
	}
	if asked {
		t.Error("the server without TLS was asked")
	}
}

func TestDelegationThreshold(t *testing.T) {
	for signatures, err := range map[int]error{1: tuf.ErrUnverified, 2: nil, 3: nil} {
		d := newDevice(t)
		first := d.repo.Delegate("targets", metadata.DelegatedRole{Name: "team", Threshold: 2, Paths: []string{"*"}})
		signers := []tuftest.Signer{first}
		role := &d.repo.Targets().Delegations.Roles[0]
		for range 2 {
			key := crypto.Signer(tuftest.NewKey(t))
			pub, id, err := sign.PublicKey(key.Public())
			want(t, err, nil)
			d.repo.Targets().Delegations.Keys[id] = pub
			role.KeyIDs = append(role.KeyIDs, id)
			signers = append(signers, tuftest.Signer{ID: id, Key: key})
		}
		d.repo.Signers["team"] = signers[:signatures]
		d.repo.AddArtifact("team", "file", []byte("content"))
		d.repo.Publish("team", "targets", "snapshot", "timestamp")
		_, got := d.get("file")
		want(t, got, err)
	}
}

func TestSuccinctRoles(t *testing.T) {
	d := newDevice(t)
	d.repo.DelegateSuccinct("targets", 3, "bin")
	names := []string{"a", "b", "dir/c", "d", "e", "f", "g"}
	for _, n := range names {
		bin := d.repo.Targets().Delegations.SuccinctRoles.GetRolesForTarget(n)[0].Name
		d.repo.AddArtifact(bin, n, []byte("in "+bin))
	}
	roles := d.repo.Targets().Delegations.SuccinctRoles.GetRoles()
	d.repo.AddArtifact("bin-0", "wrong bin", []byte("x"))
	d.repo.Publish(append(roles, "targets", "snapshot", "timestamp")...)
	for _, n := range names {
		got, err := d.get(n)
		want(t, err, nil)
		if got != string(d.repo.Artifacts[n].Data) {
			t.Errorf("%s is %q", n, got)
		}
	}
	if bin := d.repo.Targets().Delegations.SuccinctRoles.GetRolesForTarget("wrong bin")[0].Name; bin == "bin-0" {
		t.Fatal("choose another name")
	}
	_, err := d.get("wrong bin")
	want(t, err, tuf.ErrNoTarget)
}

func TestPathHashPrefixes(t *testing.T) {
	d := newDevice(t)
	// SHA-256 of "file" begins with 3b9c in hexadecimal.
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "no", Threshold: 1, PathHashPrefixes: []string{"3b9d", ""}})
	d.repo.Delegate("targets", metadata.DelegatedRole{Name: "yes", Threshold: 1, PathHashPrefixes: []string{"0", "3b9c"}})
	d.repo.AddArtifact("no", "file", []byte("no"))
	d.repo.AddArtifact("yes", "file", []byte("yes"))
	d.repo.Artifacts["file"].Data = []byte("yes")
	d.repo.Publish("no", "yes", "targets", "snapshot", "timestamp")
	got, err := d.get("file")
	want(t, err, nil)
	if got != "yes" {
		t.Fatal(got)
	}
}

// TestTerminating: behind a role that ends the search no one is asked, in its own list or above.
func TestTerminating(t *testing.T) {
	for name, c := range map[string]struct {
		ends string // the role
		path string // that it is trusted with
		in   string // the role with the file
		want error
	}{
		"nobody":         {"", "*", "b", nil},
		"the first":      {"a", "*", "b", tuf.ErrNoTarget},
		"of other paths": {"a", "x*", "b", nil},
		"one below":      {"a1", "*", "b", tuf.ErrNoTarget},
		"itself":         {"b", "*", "b", nil},
		"the second":     {"b", "*", "c", tuf.ErrNoTarget},
		"the last":       {"c", "*", "c", nil},
	} {
		d := newDevice(t)
		for _, r := range []struct{ delegator, role string }{{"targets", "a"}, {"a", "a1"}, {"targets", "b"}, {"targets", "c"}} {
			role := metadata.DelegatedRole{Name: r.role, Threshold: 1, Paths: []string{"*"}}
			if r.role == c.ends {
				role.Terminating, role.Paths = true, []string{c.path}
			}
			d.repo.Delegate(r.delegator, role)
		}
		d.repo.AddArtifact(c.in, "file", []byte("content"))
		d.repo.Publish("a", "a1", "b", "c", "targets", "snapshot", "timestamp")
		if _, err := d.get("file"); !errors.Is(err, c.want) {
			t.Errorf("%s ends the search: %v, want %v", name, err, c.want)
		}
	}
}

func TestDelegationsAreBounded(t *testing.T) {
	d := newDevice(t)
	d.cfg.Limits.Delegations = 5
	roles := []string{"targets"}
	for i := range 10 {
		role := fmt.Sprint("r", i)
		d.repo.Delegate(roles[i], metadata.DelegatedRole{Name: role, Threshold: 1, Paths: []string{"*"}})
		roles = append(roles, role)
	}
	d.repo.AddArtifact("r9", "file", []byte("deep"))
	d.repo.Publish(append(roles, "snapshot", "timestamp")...)
	_, err := d.get("file")
	want(t, err, tuf.ErrNoTarget)
	d.cfg.Limits.Delegations = 11
	_, err = d.get("file")
	want(t, err, nil)
}
