package main

import "testing"

func Test_simple_snapshot_rollback(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 0)
	// The snapshot goes back, the timestamp does not say so.
	c.repo.Published["snapshot"][1] = c.repo.Published["snapshot"][0]
	c.want(c.refresh(), 0)
	c.wantVersion("snapshot", 2)
	c.wantLastRequest("timestamp", 0)
}

func Test_new_timestamp_version_rollback(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("timestamp", 2)
	c.repo.Published["timestamp"] = c.repo.Published["timestamp"][:1]
	c.want(c.refresh(), 1)
	c.wantVersion("timestamp", 2)
	c.wantLastRequest("timestamp", 0)
}

func withAndWithoutHashes(t *testing.T, f func(*runner)) {
	for name, hashes := range map[string]bool{"basic": false, "with hashes": true} {
		t.Run(name, func(t *testing.T) {
			c := newRunner(t)
			c.repo.HashMetadata = hashes
			c.want(c.initClient(), 0)
			f(c)
		})
	}
}

func Test_snapshot_rollback(t *testing.T) {
	withAndWithoutHashes(t, func(c *runner) {
		c.repo.Publish("snapshot", "timestamp")
		c.want(c.refresh(), 0)
		c.repo.Snapshot.Signed.Version = 0
		c.repo.Publish("snapshot", "timestamp") // names snapshot 1
		c.want(c.refresh(), 1)
		c.wantVersion("timestamp", 2)
		c.wantVersion("snapshot", 2)
		c.wantLastRequest("timestamp", 0)
	})
}

func Test_targets_rollback(t *testing.T) {
	withAndWithoutHashes(t, func(c *runner) {
		c.repo.Publish("targets", "snapshot", "timestamp")
		c.want(c.refresh(), 0)
		c.repo.Targets().Version = 0
		c.repo.Publish("targets", "snapshot", "timestamp")
		c.want(c.refresh(), 1)
		c.wantTrusted(map[string]int64{"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2})
	})
}

func Test_snapshot_drops_a_role(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	delegated(c, 7)
	c.want(c.refresh(), 0)
	delete(c.repo.Snapshot.Signed.Meta, "delegated.json")
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 1)
	c.wantVersion("snapshot", 2)
}

func Test_new_targets_fast_forward_recovery(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	for range 99 {
		c.repo.Publish("targets")
	}
	c.repo.Publish("snapshot", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("targets", 100)
	c.repo.RotateKeys("snapshot")
	c.repo.Publish("root")
	c.repo.Targets().Version = 1
	c.repo.Published["targets"] = nil
	c.repo.Publish("targets", "snapshot", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("targets", 1)
}

func Test_new_snapshot_fast_forward_recovery(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	for range 99 {
		c.repo.Publish("snapshot")
	}
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("snapshot", 100)
	c.repo.RotateKeys("snapshot")
	c.repo.RotateKeys("timestamp")
	c.repo.Snapshot.Signed.Version = 1
	c.repo.Published["snapshot"] = nil
	c.repo.Publish("root", "snapshot", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("snapshot", 1)
}

func Test_new_timestamp_fast_forward_recovery(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Timestamp.Signed.Version = 98
	c.repo.Publish("timestamp", "timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("timestamp", 100)
	c.repo.RotateKeys("timestamp")
	c.repo.Publish("root")
	c.repo.Timestamp.Signed.Version = 0
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 0)
	c.wantVersion("timestamp", 1)
}

func Test_new_snapshot_version_mismatch(t *testing.T) {
	c := newRunner(t)
	c.want(c.initClient(), 0)
	c.repo.Snapshot.Signed.Version++
	c.repo.Publish("snapshot") // version 3 at the place of version 2
	c.repo.Timestamp.Signed.Meta["snapshot.json"].Version = 2
	c.repo.Publish("timestamp")
	c.want(c.refresh(), 1)
	c.wantTrusted(map[string]int64{"root": 1, "timestamp": 2})
	c.wantLastRequest("snapshot", 2)
}
