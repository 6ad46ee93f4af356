package tuf_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/sealboot/sealboot/boot/source/tuf"
)

// TestDelegated: a publisher verifies every role that anybody could come to, for each
// delegator, in a circle too, and bins.
func TestDelegated(t *testing.T) {
	build := func(t *testing.T) *device {
		d := newDevice(t)
		role := func(name string) metadata.DelegatedRole {
			return metadata.DelegatedRole{Name: name, Threshold: 1, Paths: []string{"*"}}
		}
		d.repo.Delegate("targets", role("a"))
		d.repo.Delegate("a", role("b"))
		d.repo.Delegate("a", role("c"))
		d.repo.Delegate("c", role("a"))
		d.repo.DelegateSuccinct("b", 1, "bin")
		d.repo.Publish("b", "c", "a", "bin-0", "targets", "snapshot", "timestamp")
		return d
	}
	roles := func(d *device) ([]string, error) {
		c := d.client()
		want(t, c.Refresh(t.Context()), nil)
		return c.Delegated(t.Context())
	}
	d := build(t)
	got, err := roles(d)
	want(t, err, nil)
	if diff := cmp.Diff([]string{"a", "b", "bin-0", "c"}, got); diff != "" { // bin-1 is in no snapshot
		t.Errorf("-want +got:\n%s", diff)
	}
	if data, err := d.cfg.Store.Load("bin-0"); err != nil || !bytes.Equal(data, d.repo.Last("bin-0")) {
		t.Errorf("bin-0 is not in the store: %v", err)
	}
	d = build(t)
	d.repo.Signers["b"] = nil
	d.repo.Publish("b", "snapshot", "timestamp")
	_, err = roles(d)
	want(t, err, tuf.ErrUnverified)
}

func TestRootDigest(t *testing.T) {
	d := newDevice(t)
	root := d.repo.Last("root")
	version, digest, err := tuf.RootDigest(root)
	want(t, err, nil)
	_, spaced, err := tuf.RootDigest(append(root, ' '))
	want(t, err, nil)
	if version != 1 || digest != spaced {
		t.Errorf("root %d, %x and %x", version, digest, spaced)
	}
	_, _, err = tuf.RootDigest(edit(t, root, func(md map[string]any) { md["signed"].(map[string]any)["x"] = 1 }))
	want(t, err, tuf.ErrUnverified)
}

func TestCheck(t *testing.T) {
	d := newDevice(t)
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		want(t, tuf.Check(role, d.repo.Last(role)), nil)
		want(t, tuf.Check(role, []byte(`{"signed":{},"signatures":[]}`)), tuf.ErrMalformed)
	}
	want(t, tuf.Check("team", d.repo.Last("targets")), nil)
	want(t, tuf.Check("team", d.repo.Last("snapshot")), tuf.ErrMalformed)
}
