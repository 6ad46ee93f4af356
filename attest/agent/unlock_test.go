package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/result"
	"github.com/sealboot/sealboot/attest/seal"
)

var deviceID = strings.Repeat("ab", 32)

// writeHandover makes a handover directory as the loader does.
func writeHandover(t *testing.T, firstBoot bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority, caPEM, err := ca.Create("site", key, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Agent(&key.PublicKey, deviceID, "d1")
	if err != nil {
		t.Fatal(err)
	}
	res, err := result.Sign(key, result.Result{Issuer: "site", Device: deviceID, Decision: "d1", FirstBoot: firstBoot})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		FileResult: res, FileCertificate: cert, FileSiteCA: caPEM, FileSealKey: bytes.Repeat([]byte{7}, seal.KeySize),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 32<<20); err != nil {
		t.Fatal(err)
	}
	return path
}

// cryptsetup runs the real program, except that it tests the key instead of mapping the volume: the
// device mapper is not there in every place where tests run. It records what was asked for.
type cryptsetup struct {
	t     *testing.T
	calls []string
}

func (c *cryptsetup) run(ctx context.Context, secret []byte, file *os.File, name string, args ...string) error {
	line := strings.Join(append([]string{name}, args...), " ")
	c.calls = append(c.calls, args[0])
	if len(secret) != seal.KeySize {
		c.t.Errorf("secret has %d bytes", len(secret))
	}
	if bytes.Contains([]byte(line), secret) || strings.Contains(line, string(secret)) {
		c.t.Errorf("the key is on the command line: %s", line)
	}
	if args[0] == "open" {
		args = slices.Insert(slices.Clone(args[:len(args)-1]), 1, "--test-passphrase")
	}
	return Exec(ctx, secret, file, name, args...)
}

func needCryptsetup(t *testing.T) *cryptsetup {
	t.Helper()
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return &cryptsetup{t: t}
}

func unlock(t *testing.T, c *cryptsetup, dir, disk string) (Outcome, error) {
	t.Helper()
	h, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return Volumes{Run: c.run, Mapper: t.TempDir()}.Unlock(t.Context(), h, "data", disk)
}

func TestUnlock(t *testing.T) {
	c := needCryptsetup(t)
	first, later, disk := writeHandover(t, true), writeHandover(t, false), newDisk(t)
	if got, err := unlock(t, c, first, disk); err != nil || got != Formatted {
		t.Fatalf("first boot: %q, %v", got, err)
	}
	if got, err := unlock(t, c, later, disk); err != nil || got != Opened {
		t.Fatalf("second boot: %q, %v", got, err)
	}
	// A volume of another site or device does not open, and is not formatted, first boot or not.
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(first, FileSealKey), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(first, FileSealKey), bytes.Repeat([]byte{8}, seal.KeySize), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unlock(t, c, first, disk); err == nil {
		t.Error("another seal key opened the volume")
	}
	after, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(before, after) {
		t.Error("a failed unlock changed the disk")
	}
	if diff := []string{"luksFormat", "open", "open", "open"}; !slices.Equal(c.calls, diff) {
		t.Errorf("cryptsetup was run as %v", c.calls)
	}
}

func TestUnlockFormatsNothingElse(t *testing.T) {
	c := needCryptsetup(t)
	full := newDisk(t)
	f, err := os.OpenFile(full, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("ext4 or so"), 1080); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, in := range map[string][2]string{
		"blank, not the first boot": {writeHandover(t, false), newDisk(t)},
		"in use, first boot":        {writeHandover(t, true), full},
	} {
		if _, err := unlock(t, c, in[0], in[1]); !errors.Is(err, ErrMayNotFormat) {
			t.Errorf("%s: %v, want ErrMayNotFormat", name, err)
		}
	}
	if len(c.calls) > 0 {
		t.Errorf("cryptsetup was run: %v", c.calls)
	}
}

func TestUnlockTwice(t *testing.T) {
	h, err := Open(writeHandover(t, true))
	if err != nil {
		t.Fatal(err)
	}
	mapper := t.TempDir()
	if err := os.WriteFile(filepath.Join(mapper, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]error{
		"CRYPT-LUKS2-a15d96da9ea74207815e47cdcd5f72b3-data\n":  nil,
		"CRYPT-LUKS2-a15d96da9ea74207815e47cdcd5f72b3-other\n": ErrTaken,
		"CRYPT-PLAIN-data\n": ErrTaken,
		"LVM-XJ2nLrDKyxUHGV1R6DPHYtkzvZGwBEFSQmK4XKe3oNYCVvG2cbBOPDhmqVeEFZTf\n": ErrTaken,
		"": ErrTaken,
	} {
		v := Volumes{Mapper: mapper, Sys: t.TempDir(), Run: func(context.Context, []byte, *os.File, string, ...string) error {
			return errors.New("must not run")
		}}
		dm := filepath.Join(v.Sys, "dev/block/0:0/dm") // of a regular file
		if err := os.MkdirAll(dm, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dm, "uuid"), []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := v.Unlock(t.Context(), h, "data", "/nonexistent")
		if !errors.Is(err, want) || (got == AlreadyOpen) != (want == nil) {
			t.Errorf("%q is open by the name: Unlock = %q, %v", id, got, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNotAttested) {
		t.Errorf("empty handover: %v, want ErrNotAttested", err)
	}
	for _, name := range []string{FileResult, FileCertificate, FileSiteCA} {
		dir := writeHandover(t, false)
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil {
			t.Errorf("%s holds garbage and was accepted", name)
		}
	}
	other := strings.Repeat("cd", 32)
	for name, r := range map[string]result.Result{
		"another device":  {Issuer: "site", Device: other, Decision: "d1"},
		"another site":    {Issuer: "elsewhere", Device: deviceID, Decision: "d1"},
		"nobody's device": {Issuer: "site", Decision: "d1"},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text, err := result.Sign(key, r)
		if err != nil {
			t.Fatal(err)
		}
		dir := writeHandover(t, false)
		path := filepath.Join(dir, FileResult)
		if err := errors.Join(os.Remove(path), os.WriteFile(path, text, 0o400)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "of different devices") {
			t.Errorf("the result is of %s: %v, want that it is of another device than the certificate", name, err)
		}
	}
}
