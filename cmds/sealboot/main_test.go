package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sealboot/sealboot/boot/config"
)

// sealboot runs a command line.
func sealboot(args ...string) (code int, stdout, stderr string) {
	var out, diag bytes.Buffer
	root := newRootCmd()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&diag)
	code = run(context.Background(), root, &diag)
	return code, out.String(), diag.String()
}

// must runs a command line that has to succeed, and returns what it printed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := sealboot(args...)
	if code != 0 {
		t.Fatalf("sealboot %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}

func TestWrongUse(t *testing.T) {
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"bild":                               {exitUsage, "usage: sealboot COMMAND"},
		"site intit":                         {exitUsage, "Did you mean this?\n\tinit\nusage: sealboot site COMMAND"},
		"device token-list":                  {exitUsage, "usage: sealboot device COMMAND"},
		"device":                             {exitUsage, "say what to do: allow, list"},
		"publish":                            {exitUsage, "usage: sealboot publish LOCATION"},
		"publish --frob":                     {exitUsage, "usage: sealboot publish LOCATION"},
		"policy rules":                       {exitUsage, "More: sealboot policy rules --help"},
		"enrol --dir x":                      {exitUsage, "--evidence FILE | --tpm ADDR"},
		"vm run":                             {exitUsage, "boot kernel"},
		"policy rules --root-of-trust steel": {exitFailed, "want one of hardware, locked, writable, virtual"},
		"device list --dir x --state lost":   {exitFailed, "want one of enrolled, pending, quarantined"},
		"device list --dir nowhere":          {exitFailed, "sealboot site init --dir nowhere"},
		"lab run --tamper all":               {exitFailed, "[uki kernel"},
		"build loader --source nowhere":      {exitFailed, "--source DIR"},
		"tuf refresh nowhere":                {exitFailed, "sealboot tuf init nowhere"},
	} {
		code, _, stderr := sealboot(strings.Fields(line)...)
		if code != want.code || !strings.Contains(stderr, want.says) {
			t.Errorf("sealboot %s: exit code %d; want %d and %q in:\n%s", line, code, want.code, want.says, stderr)
		}
	}
}

// TestExamples parses every example of the help with the flags and arguments of its command.
func TestExamples(t *testing.T) {
	var examples int
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "sealboot ") {
				examples++
				example(t, line)
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newRootCmd())
	if examples == 0 {
		t.Error("no examples")
	}
}

var word = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)

func example(t *testing.T, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " > ")
	line, _, _ = strings.Cut(line, " < ")
	line, _, _ = strings.Cut(line, "     ") // what it does
	var args []string
	for _, w := range word.FindAllString(line, -1)[1:] {
		args = append(args, strings.Trim(w, `"'`))
	}
	// "-k ..." stands for the keys of the example above.
	if n := len(args); n >= 2 && args[n-1] == "..." {
		args = args[:n-2]
	}
	cmd, rest, err := newRootCmd().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil {
		err = cmd.ValidateRequiredFlags()
	}
	if err == nil {
		err = cmd.ValidateFlagGroups()
	}
	if err != nil {
		t.Errorf("%s\n%v", line, err)
	}
}

func TestSiteConfig(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	if code, _, stderr := sealboot("site", "init", "--dir", dir, "--name", "shop", "--url", "https://attestd.example", "--ek-hash-only"); code != 0 {
		t.Fatal(stderr)
	}
	base := []string{"site", "config", "--dir", dir}
	ca := filepath.Join(dir, "ca.crt")
	token := filepath.Join(dir, "..", "token")
	if err := os.WriteFile(token, []byte("1234567890abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags []string
		says  string
	}{
		"nothing to boot": {nil, "nothing to boot from"},
		"no CA":           {[]string{"--oci", "registry.example/os:1"}, "sources[0].ca"},
		"no such CA":      {[]string{"--oci", "registry.example/os:1", "--registry-ca", "nowhere"}, "--registry-ca: open nowhere"},
		"CA":              {[]string{"--oci", "registry.example/os:1", "--registry-ca", ca}, ""},
		"no such token":   {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", "nowhere"}, "sealboot device token"},
		"no token":        {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", ca}, "attestd.joinToken"},
		"a token":         {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", token}, ""},
		"no TLS":          {[]string{"--oci", "registry.example/os:1", "--plain-http"}, ""},
		"a command line":  {[]string{"--oci", "registry.example/os:1", "--plain-http", "--cmdline", "quiet"}, ""},
		"credentials":     {[]string{"--oci", "registry.example/os:1", "--plain-http", "--cmdline", "systemd.import_credentials=yes"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := sealboot(append(base, c.flags...)...)
			if c.says != "" {
				if code != exitFailed || !strings.Contains(stderr, c.says) {
					t.Errorf("exit code %d; want %q in:\n%s", code, c.says, stderr)
				}
				return
			}
			site, err := config.ParseSite([]byte(out))
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if name == "CA" && site.Sources[0].CA != string(pem) {
				t.Errorf("the registry's CA is %q", site.Sources[0].CA)
			}
			if name == "a token" && (site.Attestd.JoinToken != "1234567890abcdef" || site.Floor != config.FloorOptional) {
				t.Errorf("the join token is %q, the floor %s", site.Attestd.JoinToken, site.Floor)
			}
			want, ok := map[string]string{
				"a command line": "quiet systemd.import_credentials=no", "credentials": "systemd.import_credentials=yes",
			}[name]
			if !ok {
				want = "systemd.import_credentials=no"
			}
			if site.Cmdline != want {
				t.Errorf("the command line is %q; want %q", site.Cmdline, want)
			}
		})
	}
}
