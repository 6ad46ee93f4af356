package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

// TestDevice lets devices in and out, and names them.
func TestDevice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	must(t, "site", "init", "--dir", dir, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	a, b := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	for _, hash := range []string{a, b} {
		must(t, "enrol", "--dir", dir, "--hash", hash)
		must(t, "device", "quarantine", "--dir", dir, hash, "--reason", "stolen")
	}
	must(t, "device", "allow", "--dir", dir, a[:8], "--label", "till-3")
	if out := must(t, "device", "show", "--dir", dir, "till-3"); !strings.Contains(out, a) || !strings.Contains(out, `"state": "enrolled"`) {
		t.Errorf("it shows\n%s", out)
	}
	if out := must(t, "device", "list", "--dir", dir, "--state", "enrolled"); !strings.Contains(out, "till-3") || strings.Contains(out, b[:16]) {
		t.Errorf("it lists\n%s", out)
	}
	must(t, "device", "allow", "--dir", dir, b, "--label", "till-3")
	for want, args := range map[string][]string{
		a + ", " + b:              {"quarantine", "--dir", dir, "till-3"},
		"no device \"a1a1a1a\"":   {"show", "--dir", dir, a[:7]},
		"bytes of printable text": {"allow", "--dir", dir, b, "--label", "\x1b[2J"},
	} {
		if code, _, stderr := sealboot(append([]string{"device"}, args...)...); code != cli.Failed || !strings.Contains(stderr, want) {
			t.Errorf("sealboot device %q: exit code %d, %q; want %q", args, code, stderr, want)
		}
	}
	if code, _, stderr := sealboot("enrol", "--dir", dir, "--hash", a); code != cli.Failed || !strings.Contains(stderr, "sealboot device show") {
		t.Errorf("enrolled twice: exit code %d, %q", code, stderr)
	}
	if code, _, stderr := sealboot("device", "remove", "--dir", dir, a); code != cli.Failed || !strings.Contains(stderr, "sealboot device quarantine") {
		t.Errorf("remove one that is enrolled: exit code %d, %q", code, stderr)
	}
	must(t, "device", "quarantine", "--dir", dir, a)
	must(t, "device", "quarantine", "--dir", dir, b)
	must(t, "device", "remove", "--dir", dir, a, b[:8], "--reason", "scrapped")
	if out := must(t, "device", "list", "--dir", dir); strings.Contains(out, a[:16]) || strings.Contains(out, b[:16]) {
		t.Errorf("after they were removed it lists\n%s", out)
	}
	must(t, "enrol", "--dir", dir, "--hash", a)
	if out := must(t, "site", "audit", "--dir", dir); !strings.Contains(out, ": 13 records are whole") {
		t.Errorf("the audit log: %q, want 13 records: two enrolled, quarantined, named, allowed, quarantined, removed, one enrolled", out)
	}
}

// TestListShowsDenial: a report that came after a denial does not take its place on the list.
func TestListShowsDenial(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	must(t, "site", "init", "--dir", dir, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	hash := strings.Repeat("a1", 32)
	must(t, "enrol", "--dir", dir, "--hash", hash)
	err := withStore(t.Context(), dir, func(ctx context.Context, _ *site.Site, db *store.Store) error {
		return errors.Join(
			db.SetAttempt(ctx, hash, store.Status{Time: time.Unix(1000, 0), Verdict: "deny", Reason: "image: no known image"}),
			db.SetAttempt(ctx, hash, store.Status{Time: time.Unix(2000, 0), Verdict: "report", Reason: "no network"}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := must(t, "device", "list", "--dir", dir); !strings.Contains(out, "no network; denied 1970-01-01 00:16:40: image: no known image") {
		t.Errorf("it lists\n%s", out)
	}
}
