package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/cmds/internal/cli"
)

// TestSignedPolicy adds only what a reviewer has signed, with keys made by OpenSSL as the help says.
func TestSignedPolicy(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil && os.Getenv("SEALBOOT_TEST_ALL") != "1" {
		t.Skip(err)
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, line := range []string{
		"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out reviewer.key",
		"pkey -in reviewer.key -pubout -out reviewer.pub",
		"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key",
		"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out other.key",
		"pkey -in other.key -pubout -out other.pub",
	} {
		cmd := exec.Command("openssl", strings.Fields(line)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", line, err, out)
		}
	}
	site := at("site")
	must(t, "site", "init", "--dir", site, "--name", "shop", "--url", "https://attestd.example:8443", "--ek-hash-only")
	must(t, "policy", "rules", "--root-of-trust", "hardware", "-o", at("rules.json"))
	must(t, "policy", "sign", "--key", at("reviewer.key"), "-o", at("signed.json"), at("rules.json"))
	text, err := os.ReadFile(at("signed.json"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `"hardware"`, `"writable"`, 1)
	if changed == string(text) {
		t.Fatal("the signed file does not show the document")
	}
	if err := os.WriteFile(at("changed.json"), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"not signed by this key", []string{"add", "--dir", site, "--signed-by", at("reviewer.pub"), at("changed.json")}},
		{"not signed by this key", []string{"add", "--dir", site, "--signed-by", at("other.pub"), at("signed.json")}},
		{"sealboot policy sign", []string{"add", "--dir", site, "--signed-by", at("reviewer.pub"), at("rules.json")}},
		{"--signed-by FILE", []string{"add", "--dir", site, at("signed.json")}},
		{"public key", []string{"add", "--dir", site, "--signed-by", at("reviewer.key"), at("signed.json")}},
		{"P-256", []string{"sign", "--key", at("p384.key"), at("rules.json")}},
	} {
		if code, _, stderr := sealboot(append([]string{"policy"}, c.args...)...); code != cli.Failed || !strings.Contains(stderr, c.want) {
			t.Errorf("sealboot policy %s: exit code %d, %q; want %q", strings.Join(c.args, " "), code, stderr, c.want)
		}
	}
	if out := must(t, "policy", "list", "--dir", site); strings.Contains(out, "rules") {
		t.Errorf("something was added:\n%s", out)
	}
	must(t, "policy", "add", "--dir", site, "--signed-by", at("reviewer.pub"), at("signed.json"))
	if out := must(t, "policy", "list", "--dir", site); !strings.Contains(out, "rules") {
		t.Errorf("nothing was added:\n%s", out)
	}
}
