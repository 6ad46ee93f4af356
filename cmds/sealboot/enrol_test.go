package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEnrolByEvidence has a machine name two keys at a site that trusts no maker of TPMs. The operator knows the hash of
// the first, from the box; the other may have been made in software, and would open releases without any TPM.
func TestEnrolByEvidence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	must(t, "site", "init", "--dir", dir, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	own, software := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	box := filepath.Join(t.TempDir(), "box.json")
	if err := os.WriteFile(box, fmt.Appendf(nil, `{"eks":[%q,%q]}`, own, software), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := must(t, "enrol", "--dir", dir, "--evidence", box); !strings.HasPrefix(out, own) {
		t.Errorf("enrol: %q", out)
	}
	if out := must(t, "device", "show", "--dir", dir, own); strings.Contains(out, software) {
		t.Errorf("the second key was enrolled too:\n%s", out)
	}
}
