package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

func TestSiteAudit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	must(t, "site", "init", "--dir", dir, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	must(t, "device", "token", "--dir", dir, "spring", "--uses", "5")
	kept := filepath.Join(t.TempDir(), "heads.json")
	putAway(t, dir, kept)
	must(t, "device", "token", "--dir", dir, "autumn", "--uses", "5")
	if out := must(t, "site", "audit", "--dir", dir, "--kept", kept); !strings.Contains(out, ": 2 records are whole") {
		t.Errorf("it says %q, want 2 records", out)
	}

	other := filepath.Join(t.TempDir(), "other")
	must(t, "site", "init", "--dir", other, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	must(t, "device", "token", "--dir", other, "spring", "--uses", "5")
	for want, args := range map[string][]string{
		"audit chain is broken": {"--dir", other, "--kept", kept},
		"has no head of":        {"--dir", dir, "--kept", kept, "--replica", "b"},
		"there is none of":      {"--dir", dir, "--replica", "b"},
	} {
		if code, _, stderr := sealboot(append([]string{"site", "audit"}, args...)...); code != cli.Failed || !strings.Contains(stderr, want) {
			t.Errorf("site audit %s: exit code %d, %q; want %q", strings.Join(args, " "), code, stderr, want)
		}
	}
}

// putAway keeps the heads of a site's audit log as attestd shows them.
func putAway(t *testing.T, dir, file string) {
	t.Helper()
	s, err := site.Load(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	db, err := s.OpenStore(t.Context(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	heads, err := db.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(heads)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
