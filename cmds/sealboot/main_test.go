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
	"github.com/sealboot/sealboot/cmds/internal/cli"
)

// sealboot runs a command line.
func sealboot(args ...string) (code int, stdout, stderr string) {
	var out, diag bytes.Buffer
	root := newRootCmd()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&diag)
	code = cli.Run(context.Background(), root, &diag)
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
		"bild":                               {cli.Usage, "usage: sealboot COMMAND"},
		"site intit":                         {cli.Usage, "Did you mean this?\n\tinit\nusage: sealboot site COMMAND"},
		"device token-list":                  {cli.Usage, "usage: sealboot device COMMAND"},
		"device":                             {cli.Usage, "say what to do: allow, list"},
		"publish":                            {cli.Usage, "usage: sealboot publish LOCATION"},
		"publish --frob":                     {cli.Usage, "usage: sealboot publish LOCATION"},
		"policy rules":                       {cli.Usage, "More: sealboot policy rules --help"},
		"enrol --dir x":                      {cli.Usage, "--evidence FILE | --tpm ADDR"},
		"vm run":                             {cli.Usage, "boot kernel"},
		"policy rules --root-of-trust steel": {cli.Failed, "want one of hardware, locked, writable, virtual"},
		"device list --dir x --state lost":   {cli.Failed, "want one of enrolled, pending, quarantined"},
		"device list --dir nowhere":          {cli.Failed, "sealboot site init --dir nowhere"},
		"lab run --tamper all":               {cli.Failed, "[uki kernel"},
		"lab run --boots 0":                  {cli.Failed, "want at least 1"},
		"build loader --source nowhere":      {cli.Failed, "--source DIR"},
		"tuf refresh nowhere":                {cli.Failed, "sealboot tuf init nowhere"},
		"tuf add . os main.go":               {cli.Failed, "sealboot tuf init ."},
		"tuf init new --generate new/keys --threshold root=x":              {cli.Failed, "want ROLE=N"},
		"tuf bundle repo b.tar --lifetime 1w":                              {cli.Failed, `--lifetime "1w": want a time such as 7d`},
		"device token x --dir nowhere --uses 0":                            {cli.Failed, "--uses of at least 1"},
		"device list --dir /dev/null":                                      {cli.Failed, "sealboot site init --dir /dev/null"},
		"predict loader --site nowhere":                                    {cli.Failed, "sealboot site config"},
		"predict loader --site /dev/null":                                  {cli.Failed, "/dev/null: site config: want JSON"},
		"vm run --boot nowhere --rtc noon":                                 {cli.Failed, `--rtc "noon": want a time like`},
		"predict profile --log /dev/null --name x --root-of-trust virtual": {cli.Failed, "neither the console of a machine"},
		"site init --dir x --name a --url https://a --ek-roots /dev/null":  {cli.Failed, "--ek-hash-only"},
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
		"a medium":        {[]string{"--media"}, ""},
		"not a config":    {[]string{"--from", ca}, "--from " + ca + " is not a site config"},
		"no CA":           {[]string{"--oci", "registry.example/os:1"}, "sources[0].ca"},
		"no such CA":      {[]string{"--oci", "registry.example/os:1", "--registry-ca", "nowhere"}, "--registry-ca: open nowhere"},
		"CA":              {[]string{"--oci", "registry.example/os:1", "--registry-ca", ca}, ""},
		"no such token":   {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", "nowhere"}, "sealboot device token"},
		"an empty token":  {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", os.DevNull}, "is empty"},
		"no token":        {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", ca}, "attestd.joinToken"},
		"a token":         {[]string{"--oci", "registry.example/os:1", "--plain-http", "--join-token", token}, ""},
		"no TLS":          {[]string{"--oci", "registry.example/os:1", "--plain-http"}, ""},
		"a command line":  {[]string{"--oci", "registry.example/os:1", "--plain-http", "--cmdline", "quiet"}, ""},
		"credentials":     {[]string{"--oci", "registry.example/os:1", "--plain-http", "--cmdline", "systemd.import_credentials=yes"}, ""},
		"EFI variables":   {[]string{"--oci", "registry.example/os:1", "--plain-http", "--cmdline", "efi=runtime quiet"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := sealboot(append(base, c.flags...)...)
			if c.says != "" {
				if code != cli.Failed || !strings.Contains(stderr, c.says) {
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
			const ends = " panic=10 rd.shell=0 rd.emergency=reboot hibernate=no"
			want, ok := map[string]string{
				"a command line": "quiet systemd.import_credentials=no efi=noruntime" + ends,
				"credentials":    "systemd.import_credentials=yes efi=noruntime" + ends,
				"EFI variables":  "efi=runtime quiet systemd.import_credentials=no" + ends,
			}[name]
			if !ok {
				want = "systemd.import_credentials=no efi=noruntime" + ends
			}
			if site.Cmdline != want {
				t.Errorf("the command line is %q; want %q", site.Cmdline, want)
			}
		})
	}
}
