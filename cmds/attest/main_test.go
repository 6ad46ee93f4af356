package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/cmds/internal/version"
)

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"help":           {[]string{"help"}, 0, "attest evidence"},
		"version":        {[]string{"--version"}, 0, "attest " + version.String() + "\n"},
		"unknown":        {[]string{"x"}, exitUsage, "unknown command"},
		"no volume":      {[]string{"unlock"}, exitUsage, "wrong arguments"},
		"no handover":    {[]string{"status", "--dir", "/nonexistent"}, exitNotAttested, "holds no release"},
		"unlock nothing": {[]string{"unlock", "--dir", "/nonexistent", "--volume", "data", "--device", "/dev/null"}, exitNotAttested, "holds no release"},
		"no TPM":         {[]string{"evidence", "--tpm", "unix:/nonexistent"}, exitFailed, "/nonexistent"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit %d, %q; want %d and %q", name, code, out.String(), c.code, c.want)
		}
	}
}

// TestLight keeps what belongs to servers out of a program that firmware links.
func TestLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, bad := range []string{"database/sql", "html/template", "modernc.org/", "github.com/jackc/", "github.com/spf13/", "sealboot/attest/server", "sealboot/attest/store", "sealboot/boot/"} {
			if strings.Contains(dep, bad) {
				t.Errorf("attest links %s", dep)
			}
		}
	}
}

// TestHandoverScript runs the mover of the OS side below a prefix.
func TestHandoverScript(t *testing.T) {
	root := t.TempDir()
	from, to := filepath.Join(root, ".extra", "sealboot"), filepath.Join(root, "run", "sealboot")
	if err := os.MkdirAll(from, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "seal.key"), []byte("secret"), 0o444); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("os/handover")
	if err != nil {
		t.Fatal(err)
	}
	credentials := filepath.Join(root, ".extra", "system_credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(credentials, "sealboot.seal-key.cred"), []byte("secret"), 0o400); err != nil {
		t.Fatal(err)
	}
	// The mount must be there before the first secret is.
	bin, mounts := t.TempDir(), filepath.Join(root, "mounts")
	mount := "#!/bin/sh\nfor last; do :; done\nls \"$last\"\necho \"$@\" >> " + mounts + "\n"
	if err := os.WriteFile(filepath.Join(bin, "mount"), []byte(mount), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	text := strings.Replace(string(script), "to=/run/sealboot", "to="+to, 1)
	for range 2 { // the second time there is nothing to do
		if out, err := exec.Command("/bin/sh", "-c", text, "handover", root).CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for path, mode := range map[string]os.FileMode{to: 0o700, filepath.Join(to, "seal.key"): 0o400} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, want mode %o", path, err, mode)
		}
	}
	if got, err := os.ReadFile(mounts); err != nil || string(got) != "-t ramfs -o mode=0700,nosuid,nodev,noexec ramfs "+to+"\n" {
		t.Errorf("mounted %q, %v; a tmpfs could be swapped out", got, err)
	}
	for _, path := range []string{from, credentials} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was left in the initramfs", path)
		}
	}
}
