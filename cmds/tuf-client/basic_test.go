package main

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/publish/sign"
)

func Test_basic_refresh_requests(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.wantRequests(firstRefresh()...)
}

func Test_basic_refresh_trusted_data(t *testing.T) {
	c := newRunner(t)
	c.start()
	for _, role := range topLevel {
		c.wantMetadata(role, c.repo.Last(role))
	}
}

func Test_implicit_refresh(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.want(c.download("nonexistent artifact"), 1)
	c.wantRequests(firstRefresh()...)
	for _, role := range topLevel {
		c.wantMetadata(role, c.repo.Last(role))
	}
}

func Test_invalid_initial_root(t *testing.T) {
	c := newRunner(t)
	c.root = editJSON(t, c.root, func(md map[string]any) { delete(md["signed"].(map[string]any), "version") })
	c.initClient() // may succeed: nothing is checked yet
	c.want(c.refresh(), 1)
	c.wantRequests()
}

func Test_unsigned_initial_root(t *testing.T) {
	c := newRunner(t)
	c.root = editJSON(t, c.root, func(md map[string]any) {
		md["signatures"].([]any)[0].(map[string]any)["sig"] = "3045022100ee448afe2d25dd1f05afedac83a24e7df90f203615221434979153dc7cea6d4702207710015851e571885a77db8a6e42c4b2983a59b9e1ebec91178dfa2fb0d42ab8"
	})
	c.initClient()
	c.want(c.refresh(), 1)
	c.wantRequests()
}

func editJSON(t *testing.T, data []byte, edit func(map[string]any)) []byte {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	edit(v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func Test_unsigned_metadata(t *testing.T) {
	for role, trusted := range map[string]map[string]int64{
		"root":      {"root": 1},
		"timestamp": {"root": 2},
		"snapshot":  {"root": 2, "timestamp": 2},
		"targets":   {"root": 2, "snapshot": 2, "timestamp": 2},
	} {
		t.Run(role, func(t *testing.T) {
			c := newRunner(t)
			c.repo.Signers[role] = nil
			c.repo.Publish("root", "targets", "snapshot", "timestamp")
			c.want(c.initClient(), 0)
			c.want(c.refresh(), 1)
			c.wantTrusted(trusted)
		})
	}
}

func Test_url_and_metadata_version_mismatch(t *testing.T) {
	for role, trusted := range map[string]map[string]int64{
		"root":     {"root": 1},
		"snapshot": {"root": 2, "timestamp": 2},
		"targets":  {"root": 2, "snapshot": 2, "timestamp": 2},
	} {
		t.Run(role, func(t *testing.T) {
			c := newRunner(t)
			// What is served as version 2 says that it is version 3.
			switch role {
			case "root":
				c.repo.Root.Signed.Version++
			case "snapshot":
				c.repo.Snapshot.Signed.Version++
			case "targets":
				c.repo.Targets().Version++
			}
			c.repo.Publish("root", "targets", "snapshot", "timestamp")
			c.want(c.initClient(), 0)
			c.want(c.refresh(), 1)
			c.wantTrusted(trusted)
		})
	}
}

func Test_timestamp_content_changes(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 100
	c.repo.Published["timestamp"] = nil
	c.repo.Publish("timestamp") // another version 1
	c.want(c.refresh(), 0)
	c.wantLastRequest("timestamp", 0)
	ts, err := metadata.Timestamp().FromFile(c.file("timestamp"))
	if err != nil {
		t.Fatal(err)
	}
	if v := ts.Signed.Meta["snapshot.json"].Version; v != 1 {
		t.Fatalf("the trusted timestamp names snapshot %d", v)
	}
}

func Test_basic_metadata_hash_support(t *testing.T) {
	c := newRunner(t)
	c.repo.HashMetadata = true
	c.repo.Publish("targets", "snapshot", "timestamp")
	c.start()
	c.repo.Publish("targets")
	wrong, _ := hex.DecodeString("46419349341cfb2d95f6ae3d4cd5c3d3dd7f4673985dad42a45130be5e0531a0")
	c.repo.Snapshot.Signed.Meta["targets.json"].Hashes["sha256"] = wrong
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 3)
	c.wantVersion("targets", 2)
}

func Test_metadata_bytes_match(t *testing.T) {
	c := newRunner(t)
	data := append(c.repo.Last("timestamp"), ' ')
	c.repo.Published["timestamp"][0] = data
	c.start()
	c.wantMetadata("timestamp", data)
}

func Test_custom_fields(t *testing.T) {
	c := newRunner(t)
	c.start()
	pub, key := customKey(t, map[string]any{"extra-field": map[string]any{"a": 1, "b": 2}})
	c.repo.Root.Signed.UnrecognizedFields = map[string]any{"custom-field": "value"}
	c.repo.Root.Signed.Roles["root"].UnrecognizedFields = map[string]any{"another-field": "value"}
	id, err := pub.ID()
	if err != nil {
		t.Fatal(err)
	}
	c.repo.AddKeyAs("root", id, pub, key.Key)
	c.repo.Publish("root")
	c.want(c.refresh(), 0)
	c.wantVersion("root", 2)
}

func Test_deprecated_keyid_hash_algorithms(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.ClearKeys("snapshot")
	pub, key := customKey(t, map[string]any{"keyid_hash_algorithms": "md5"})
	id, err := pub.ID()
	if err != nil {
		t.Fatal(err)
	}
	c.repo.AddKeyAs("snapshot", id, pub, key.Key)
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("root", 2)
	c.wantVersion("snapshot", 2)
}

// customKey is a key with fields that the specification does not know.
func customKey(t *testing.T, fields map[string]any) (*metadata.Key, tuftest.Signer) {
	key := tuftest.NewKey(t)
	pub, _, err := sign.PublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	fresh := &metadata.Key{Type: pub.Type, Scheme: pub.Scheme, Value: pub.Value, UnrecognizedFields: fields}
	return fresh, tuftest.Signer{Key: key}
}

func Test_snapshot_404(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Timestamp.Signed.Meta["snapshot.json"].Version++
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 1)
	c.wantLastRequest("snapshot", 2)
	c.wantTrusted(map[string]int64{"root": 1, "snapshot": 1, "targets": 1, "timestamp": 2})
}

func Test_targets_404(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Snapshot.Signed.Meta["targets.json"].Version++
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantLastRequest("targets", 2)
	c.wantTrusted(map[string]int64{"root": 1, "snapshot": 2, "targets": 1, "timestamp": 2})
}

func Test_timestamp_404(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Published["timestamp"] = nil
	c.want(c.refresh(), 1)
	c.wantLastRequest("timestamp", 0)
}

func Test_new_targets_version_mismatch(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Publish("targets") // the snapshot does not name it
	c.want(c.refresh(), 0)
	c.wantVersion("targets", 1)
	c.wantLastRequest("timestamp", 0)
}

func Test_incorrect_metadata_type(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	// A snapshot that is a fine timestamp but for its type.
	ts := c.repo.Signers["timestamp"][0]
	c.repo.AddKey("snapshot", ts.Key)
	c.repo.Snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": {Version: 1}}
	c.repo.Publish("root", "snapshot")
	c.repo.Published["timestamp"] = append(c.repo.Published["timestamp"], c.repo.Last("snapshot"))
	c.want(c.refresh(), 1)
	c.wantTrusted(map[string]int64{"root": 2})
}

func Test_faketime(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Root.Signed.Expires = c.now.UTC().AddDate(0, 0, 7)
	c.repo.Publish("root")
	c.want(c.refresh(), 0)
	c.now = c.now.AddDate(0, 0, 8)
	c.want(c.refresh(), 1)
}

func Test_unusual_role_name(t *testing.T) {
	for role, escaped := range map[string]string{
		"?": "%3F", "#": "%23", "/delegatedrole": "%2Fdelegatedrole", "../delegatedrole": "..%2Fdelegatedrole",
		".": ".", "..": "..", "ö %": "%C3%B6%20%25",
	} {
		t.Run(escaped, func(t *testing.T) {
			c := newRunner(t)
			c.repo.Delegate("targets", metadata.DelegatedRole{Name: role, Threshold: 1, Paths: []string{"*"}})
			c.repo.Publish(role, "targets", "snapshot", "timestamp")
			c.want(c.initClient(), 0)
			c.want(c.download("nonexistent target"), 1)
			if !slices.Contains(c.repo.Requests(), tuftest.Request{Role: escaped, Version: 1}) {
				t.Fatalf("no request for %s in %v", escaped, c.repo.Requests())
			}
			if n := len(c.jsonFiles()); n != 5 {
				t.Fatalf("%d trusted roles, want 5: %v", n, c.jsonFiles())
			}
		})
	}
}

func Test_date_is_what_date_says(t *testing.T) {
	now, err := date(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(now); d < -2*time.Second || d > time.Hour {
		t.Fatalf("date(1) says %s", now)
	}
}
