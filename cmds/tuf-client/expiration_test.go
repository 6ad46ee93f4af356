package main

import (
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func Test_root_expired(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Publish("root")
	c.want(c.refresh(), 0)
	c.repo.Root.Signed.Expires = c.now.UTC().AddDate(0, 0, -1)
	c.repo.Publish("root", "timestamp")
	c.want(c.refresh(), 1)
	// The expired root is kept (5.3.10), nothing after it is touched or asked for.
	c.wantLastRequest("root", 4)
	c.wantVersion("root", 3)
	c.wantVersion("timestamp", 1)
	c.wantVersion("snapshot", 1)
	// An expired root that is not the last is no hindrance.
	c.repo.Root.Signed.Expires = c.repo.Expiry
	c.repo.Publish("root")
	c.want(c.refresh(), 0)
	c.wantVersion("root", 4)
}

func Test_timestamp_expired(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Timestamp.Signed.Expires = c.now.UTC().AddDate(0, 0, -5)
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("timestamp", 1)
}

func Test_snapshot_expired(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Snapshot.Signed.Expires = c.now.UTC().AddDate(0, 0, -5)
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 1)
}

func Test_targets_expired(t *testing.T) {
	c := newRunner(t)
	c.start()
	c.repo.Targets().Expires = c.now.UTC().AddDate(0, 0, -5)
	c.repo.Publish("targets", "snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("targets", 1)
}

func Test_expired_metadata(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Timestamp.Signed.Expires = c.now.UTC().AddDate(0, 0, 7)
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 0)
	c.repo.Publish("targets", "snapshot")
	c.repo.Timestamp.Signed.Expires = c.now.UTC().AddDate(0, 0, 21)
	c.repo.Publish("timestamp")
	c.now = c.now.AddDate(0, 0, 18) // the cached timestamp has expired
	c.want(c.refresh(), 0)
	c.wantVersion("targets", 2)
	c.wantVersion("timestamp", 3)
	c.wantVersion("snapshot", 2)
}

func Test_expired_local_metadata(t *testing.T) {
	for _, role := range topLevel {
		t.Run(role, func(t *testing.T) {
			c := newRunner(t)
			c.want(c.initClient(), 0)
			early := c.now.UTC().AddDate(0, 0, 7)
			expire := map[string]func(){
				"root":      func() { c.repo.Root.Signed.Expires = early },
				"timestamp": func() { c.repo.Timestamp.Signed.Expires = early },
				"snapshot":  func() { c.repo.Snapshot.Signed.Expires = early },
				"targets":   func() { c.repo.Targets().Expires = early },
			}
			expire[role]()
			c.repo.Publish("root", "targets", "snapshot", "timestamp")
			c.want(c.refresh(), 0)
			c.now = c.now.AddDate(0, 0, 8)
			c.want(c.refresh(), 1)
		})
	}
}

func Test_expired_timestamp_still_prevents_rollback(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Timestamp.Signed.Expires = c.now.UTC().AddDate(0, 0, 7)
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 0)
	c.now = c.now.AddDate(0, 0, 18)
	c.repo.Timestamp.Signed.Version = 0
	c.repo.Timestamp.Signed.Expires = c.now.UTC().AddDate(0, 0, 1)
	c.repo.Publish("timestamp") // version 1 again
	c.want(c.refresh(), 1)
	c.wantVersion("timestamp", 2)
}

// delegated adds a role with two artifacts that expires in so many days.
func delegated(c *runner, days int) {
	c.repo.Delegate("targets", metadata.DelegatedRole{Name: "delegated", Threshold: 1, Paths: []string{"delegatedpath/*"}})
	c.repo.Roles["delegated"].Signed.Expires = c.now.UTC().AddDate(0, 0, days)
	c.repo.AddArtifact("delegated", "delegatedpath/first", []byte("first"))
	c.repo.AddArtifact("delegated", "delegatedpath/second", []byte("second"))
	c.repo.Publish("delegated", "targets", "snapshot", "timestamp")
}

func Test_delegated_targets_expired(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	delegated(c, -1)
	c.want(c.refresh(), 0)
	c.want(c.download("delegatedpath/first"), 1)
	c.wantDownloads()
	c.wantTrusted(map[string]int64{"root": 1, "snapshot": 2, "targets": 2, "timestamp": 2})
}

func Test_expired_local_delegated_targets(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	delegated(c, 7)
	c.want(c.download("delegatedpath/first"), 0)
	c.wantDownloads("first")
	c.now = c.now.AddDate(0, 0, 18)
	c.want(c.download("delegatedpath/second"), 1)
	c.wantDownloads("first")
}

func Test_expired_local_delegated_targets_updates(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	delegated(c, 7)
	c.want(c.download("delegatedpath/first"), 0)
	c.repo.Roles["delegated"].Signed.Expires = c.now.UTC().AddDate(0, 0, 21)
	c.repo.Publish("delegated", "snapshot", "timestamp")
	c.now = c.now.AddDate(0, 0, 18)
	c.want(c.download("delegatedpath/second"), 0)
	c.wantDownloads("first", "second")
}
