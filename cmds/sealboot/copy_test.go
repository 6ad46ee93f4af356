package main

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/sealboot/sealboot/boot/boottest/ocitest"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

// TestCopy publishes to a registry that wants a password, from Docker's
// config.json, and copies from there to a tar file and back to another name.
func TestCopy(t *testing.T) {
	s := httptest.NewServer(ocitest.Locked(ociserver.New(ocimem.New(), nil), "ci", "opensesame"))
	defer s.Close()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir, addr := t.TempDir(), strings.TrimPrefix(s.URL, "http://")
	kernel, auth, wrong := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "config.json"), filepath.Join(dir, "wrong.json")
	for path, content := range map[string][]byte{
		kernel: []byte(ukitest.BzImage("kernel")),
		auth:   ocitest.DockerConfig(addr, "ci", "opensesame"),
		wrong:  ocitest.DockerConfig(addr, "ci", "closesesame"),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	archive := "oci-archive:" + filepath.Join(dir, "os.tar") + ":1"
	var digest string
	for _, args := range [][]string{
		{"publish", addr + "/os:1", "--plain-http", "--authfile", auth, "--kernel", kernel},
		{"copy", addr + "/os:1", archive, "--from-plain-http", "--from-authfile", auth},
		{"copy", archive, addr + "/copy:1", "--to-plain-http", "--to-authfile", auth},
		{"copy", addr + "/copy:1", addr + "/copy:2", "--from-plain-http", "--from-authfile", auth, "--to-plain-http", "--to-authfile", auth},
	} {
		code, out, diag := sealboot(args...)
		if code != 0 || digest != "" && out != digest {
			t.Fatalf("sealboot %q: exit code %d, digest %q, want %q\n%s", args, code, out, digest, diag)
		}
		digest = out
	}
	for _, args := range [][]string{
		{"copy", addr + "/os:1", archive, "--from-plain-http", "--from-authfile", wrong},
		{"copy", addr + "/os:1", archive, "--from-plain-http"},
		{"copy", archive, addr + "/copy:3", "--to-plain-http", "--to-authfile", wrong},
	} {
		code, _, diag := sealboot(args...)
		if code != cli.Failed || strings.Contains(diag, "sesame") {
			t.Errorf("sealboot %q: exit code %d\n%s", args, code, diag)
		}
	}
}
