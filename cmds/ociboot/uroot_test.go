package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/cmds/internal/loader"
)

// TestURoot builds an initramfs with u-root's own tool and Sealboot's commands
// as ordinary ones, and runs ociboot out of it. The tool and its modules may
// have to be downloaded, so this is no part of the fast subset.
func TestURoot(t *testing.T) {
	if os.Getenv("SEALBOOT_TEST_ALL") != "1" {
		t.Skip("only with SEALBOOT_TEST_ALL=1")
	}
	busybox := uroot(t)
	ref := published(t)
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"ociboot", []string{"--dry-run", "--json", "--plain-http", ref}, loader.ExitOK},
		{"ociboot", []string{"--dry-run", "--plain-http", ref + "2"}, loader.ExitFailed},
		{"ociboot", nil, loader.ExitUsage},
		{"tufboot", nil, loader.ExitUsage},
		{"attest", []string{"--help"}, 0},
	} {
		cmd := exec.Command(busybox, c.args...)
		cmd.Args[0] = c.name // which is how a busybox knows what to be
		var diag strings.Builder
		cmd.Stderr = &diag
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%s %q: exit code %d, want %d\n%s", c.name, c.args, code, c.code, &diag)
		}
		if c.code != loader.ExitOK || c.name != "ociboot" {
			continue
		}
		var p loader.Plan
		if err := json.Unmarshal(out, &p); err != nil || p.Kind != "linux" || len(p.AtQuote) != 64 {
			t.Errorf("plan %+v, %v", p, err)
		}
	}
}

// uroot returns the busybox of the image that u-root's tool has built.
func uroot(t *testing.T) string {
	t.Helper()
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/u-root/u-root").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "initramfs.cpio")
	cmd := exec.Command("go", "run", "github.com/u-root/u-root@"+strings.TrimSpace(string(version)),
		"-o", archive, "-defaultsh=", "-uinitcmd=", "github.com/u-root/u-root/cmds/core/init",
		"./cmds/ociboot", "./cmds/tufboot", "./cmds/attest")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	busybox := filepath.Join(dir, "bb")
	for r := cpio.Newc.Reader(f); ; {
		record, err := r.ReadRecord()
		if err != nil {
			t.Fatalf("no bbin/bb in the image: %v", err)
		}
		if record.Name != "bbin/bb" {
			continue
		}
		program, err := io.ReadAll(io.NewSectionReader(record, 0, int64(record.FileSize)))
		if err := errors.Join(err, os.WriteFile(busybox, program, 0o755)); err != nil {
			t.Fatal(err)
		}
		return busybox
	}
}

// published is an image in a registry.
func published(t *testing.T) (ref string) {
	t.Helper()
	s := httptest.NewServer(ociserver.New(ocimem.New(), nil))
	t.Cleanup(s.Close)
	ref = strings.TrimPrefix(s.URL, "http://") + "/os:v1"
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(kernel, []byte(ukitest.BzImage("kernel")), 0o600); err != nil {
		t.Fatal(err)
	}
	loc, err := ocipush.ParseLocation(ref)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := loc.Target(t.Context(), oci.Connection{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := ocipush.Artifact{Kernel: kernel}.Push(t.Context(), dst)
	if err := errors.Join(err, dst.Tag(t.Context(), d, "v1"), dst.Finish(), dst.Close()); err != nil {
		t.Fatal(err)
	}
	return ref
}
