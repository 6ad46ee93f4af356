package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	dir := t.TempDir()
	comma := filepath.Join(dir, "a,b")
	if err := os.WriteFile(comma, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no directory":         {},
		"no such machine":      {Dir: dir, Arch: "vax"},
		"negative memory":      {Dir: dir, Memory: -1},
		"initrd alone":         {Dir: dir, Initrd: comma},
		"command line alone":   {Dir: dir, Cmdline: "quiet"},
		"no such disk":         {Dir: dir, Disks: []Disk{{Path: filepath.Join(dir, "absent")}}},
		"comma in a path":      {Dir: dir, Boot: comma},
		"fw_cfg outside opt/":  {Dir: dir, FWCfg: map[string]string{"etc/x": "y"}},
		"no such TPM":          {Dir: dir, TPM: filepath.Join(dir, "absent")},
		"no such boot disk":    {Dir: dir, Boot: filepath.Join(dir, "absent")},
		"negative CPU numbers": {Dir: dir, CPUs: -1},
	} {
		if _, err := Start(context.Background(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
}

// option returns the values of one option on a command line.
func option(args []string, name string) (values []string) {
	for i, a := range args {
		if a == name {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArgs(t *testing.T) {
	c := Config{
		Boot: "/esp", Disks: []Disk{{Path: "/d0", Serial: "sealdata"}, {Path: "/d1", Format: "qcow2", ReadOnly: true}},
		TPM: "/tpm", Isolated: true, Forward: []Forward{{2222, 22}}, RTC: time.Unix(0, 0), Memory: 3072,
		FWCfg: map[string]string{"opt/b": "/b", "opt/a": "/a"}, SMBIOS: []string{"a,b"}, NoReboot: true,
	}
	args := c.args(TCG, "/vars")
	for name, want := range map[string][]string{
		"-accel":  {"tcg,thread=multi"},
		"-cpu":    {"max,la57=off"},
		"-m":      {"3072"},
		"-smp":    {"2"},
		"-rtc":    {"base=1970-01-01T00:00:00,clock=vm"},
		"-netdev": {"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22"},
		"-fw_cfg": {"name=opt/a,file=/a", "name=opt/b,file=/b"},
		"-smbios": {"type=11,value=a,,b"},
		"-tpmdev": {"emulator,id=tpm0,chardev=tpm"},
		"-drive": {
			"if=pflash,format=raw,readonly=on,file=" + ovmf.code, "if=pflash,format=raw,file=/vars",
			"if=none,id=boot,format=raw,file=/esp", "if=none,id=disk0,format=raw,file=/d0",
			"if=none,id=disk1,format=qcow2,file=/d1,readonly=on",
		},
	} {
		if diff := cmp.Diff(want, option(args, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if len(option(c.args(KVM, "/vars"), "-kernel")) != 0 {
		t.Error("a kernel that nobody asked for")
	}
	devices := strings.Join(option(args, "-device"), " ")
	for _, want := range []string{"drive=disk0,addr=0x8,serial=sealdata", "drive=disk1,addr=0x9", "drive=boot,addr=0x3,bootindex=0"} {
		if !strings.Contains(devices, want) {
			t.Errorf("devices %q lack %q", devices, want)
		}
	}
	bare := (&Config{NoNetwork: true}).args(TCG, "/vars")
	if len(option(bare, "-netdev")) != 0 || len(option(bare, "-tpmdev")) != 0 {
		t.Error("a machine without network and TPM has one")
	}
}

func TestExpect(t *testing.T) {
	ctx := context.Background()
	c := newConsole()
	go func() {
		fmt.Fprint(c, "one tw")
		fmt.Fprint(c, "o three two")
		c.end()
	}()
	for _, want := range []string{"two", "three", "two"} {
		m, err := c.expect(ctx, regexp.MustCompile(`t(\w+)`))
		if err != nil {
			t.Fatal(err)
		}
		// A word may come in parts; what is there by then is the match.
		if !strings.HasPrefix(want, m[0]) {
			t.Fatalf("matched %q, want the beginning of %q", m, want)
		}
		if m[0] != want {
			if _, err := c.expect(ctx, regexp.MustCompile(strings.TrimPrefix(want, m[0]))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.expect(ctx, regexp.MustCompile("four")); !errors.Is(err, ErrExited) {
		t.Errorf("after the end: %v, want ErrExited", err)
	}
	silent := newConsole()
	ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := silent.expect(ctx, regexp.MustCompile("x")); !errors.Is(err, ErrDeadline) {
		t.Errorf("silence: %v, want ErrDeadline", err)
	}
}

func TestDeadline(t *testing.T) {
	if got := KVM.Deadline(time.Second); got != time.Second {
		t.Errorf("KVM stretches a second to %v", got)
	}
	if got := TCG.Deadline(time.Second); got <= time.Second {
		t.Errorf("TCG gives %v for a second", got)
	}
}

// TestProbeRunsAGuest runs the probe where it always works; a guest that does
// not come to its end must be told apart.
func TestProbeRunsAGuest(t *testing.T) {
	need(t, "qemu-system-x86_64")
	ctx, cancel := context.WithTimeout(context.Background(), TCG.Deadline(probeTime))
	defer cancel()
	if err := runProbe(ctx, TCG); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := runProbe(ended, TCG); !errors.Is(err, context.Canceled) {
		t.Errorf("a probe without time: %v, want context.Canceled", err)
	}
	t.Setenv("SEALBOOT_ACCEL", "kvm")
	if got := Probe(); got != KVM {
		t.Errorf("Probe = %s against the environment", got)
	}
}

func TestCreateTPM(t *testing.T) {
	need(t, "swtpm", "swtpm_setup")
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	for _, name := range []string{"a", "b", "a"} {
		if err := CreateTPM(context.Background(), filepath.Join(dir, name), TPMOptions{CA: ca, Banks: "sha256,sha384"}); err != nil {
			t.Fatal(err)
		}
	}
	issuer, root := CACertificate(ca)
	for _, path := range []string{issuer, root, filepath.Join(dir, "a", "tpm2-00.permall"), filepath.Join(dir, "b", "tpm2-00.permall")} {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := CreateTPM(context.Background(), filepath.Join(dir, "c"), TPMOptions{Banks: "sha666"}); err == nil {
		t.Error("a TPM was made with a bank that does not exist")
	}
}
