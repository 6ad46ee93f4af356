package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// repository publishes a kernel as the target "os" and writes the trusted root.
func repository(t *testing.T, version int) (r *tuftest.Repo, root string) {
	t.Helper()
	r = tuftest.New(t)
	publish(r, version)
	root = filepath.Join(t.TempDir(), "root.json")
	if err := os.WriteFile(root, r.Published["root"][0], 0o600); err != nil {
		t.Fatal(err)
	}
	return r, root
}

func publish(r *tuftest.Repo, version int) {
	r.AddArtifact("targets", "kernel", []byte(ukitest.BzImage("a kernel")))
	r.AddArtifact("targets", "os", []byte(`{"kernel":"kernel","cmdline":"quiet"}`))
	custom := json.RawMessage(fmt.Sprintf(`{"sealboot":{"kind":"linux","version":%d,"architecture":%q}}`, version, runtime.GOARCH))
	r.Targets().Targets["os"].Custom = &custom
	r.Publish("targets", "snapshot", "timestamp")
}

func TestDryRun(t *testing.T) {
	r, root := repository(t, 7)
	cache := t.TempDir()
	args := []string{"--dry-run", "--root", root, "--metadata-url", r.URL + "/metadata", "--target", "os", "--cache", cache}
	if code := run(args); code != loader.ExitOK {
		t.Fatalf("exit code %d", code)
	}
	if _, err := os.Stat(filepath.Join(cache, "tuf", "timestamp.json")); err != nil {
		t.Errorf("no metadata in the cache: %v", err)
	}
	// The first place is gone: its mirror has the same.
	args = []string{"--dry-run", "--root", root, "--metadata-url", "http://127.0.0.1:1/metadata", "--mirror", r.URL, "--target", "os"}
	if code := run(args); code != loader.ExitOK {
		t.Errorf("by the mirror: exit code %d", code)
	}
}

func TestExitCodes(t *testing.T) {
	r, root := repository(t, 7)
	other, _ := repository(t, 7)
	url := r.URL + "/metadata"
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"help", []string{"--help"}, loader.ExitOK},
		{"nothing", nil, loader.ExitUsage},
		{"an argument", []string{"--root", root, "--metadata-url", url, "--target", "os", "x"}, loader.ExitUsage},
		{"both places", []string{"--root", root, "--metadata-url", url, "--bundle", ".", "--target", "os"}, loader.ExitUsage},
		{"no root", []string{"--root", "/none", "--metadata-url", url, "--target", "os"}, loader.ExitUsage},
		{"no such target", []string{"--dry-run", "--root", root, "--metadata-url", url, "--target", "none"}, loader.ExitFailed},
		{"another repository", []string{"--dry-run", "--root", root, "--metadata-url", other.URL + "/metadata", "--target", "os"}, loader.ExitFailed},
		{"not bootable", []string{"--dry-run", "--root", root, "--metadata-url", url, "--target", "kernel"}, loader.ExitFailed},
		{"no bundle", []string{"--dry-run", "--root", root, "--bundle", t.TempDir(), "--target", "os"}, loader.ExitFailed},
		{"no TPM", []string{"--root", root, "--metadata-url", url, "--target", "os", "--tpm", "unix:/none"}, loader.ExitFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code := run(c.args); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
		})
	}
}
