package site

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/seal"
	"github.com/sealboot/sealboot/measure/strict"
)

var good = Settings{Name: "lab", URL: "https://attestd.example:8443", Endorsement: EndorsedByHash}

func initSite(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "site")
	if err := Init(dir, good, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInitAndLoad(t *testing.T) {
	dir := initSite(t)
	s, err := Load(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.SealKey) != seal.KeySize || s.Host() != "attestd.example" || s.Replica != "a" {
		t.Errorf("loaded %d bytes of seal key, host %q, replica %q", len(s.SealKey), s.Host(), s.Replica)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if secret := strings.HasSuffix(e.Name(), ".key"); secret && fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), fi.Mode().Perm())
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, fileSeal)); err != nil || strings.Contains(string(text), string(s.SealKey)) {
		t.Error("the seal key is stored in clear")
	}
	if err := Init(dir, good, nil, time.Now); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Init over a site: %v, want fs.ErrExist", err)
	}
	if again, err := Load(dir, time.Now); err != nil || string(again.SealKey) != string(s.SealKey) {
		t.Errorf("after the refused Init: %v", err)
	}
}

// TestClockBeforeTheSite opens a site with a clock that has lost its battery: attestd would sign that time to the fleet.
func TestClockBeforeTheSite(t *testing.T) {
	dir := initSite(t)
	for name, now := range map[string]time.Time{"1970": time.Unix(100, 0), "an hour before": time.Now().Add(-time.Hour), "in a century": time.Now().AddDate(100, 0, 0)} {
		if _, err := Load(dir, func() time.Time { return now }); !errors.Is(err, ca.ErrClock) {
			t.Errorf("%s: %v, want ErrClock", name, err)
		}
	}
	if _, err := Load(dir, func() time.Time { return time.Now().Add(-time.Minute) }); err != nil {
		t.Errorf("a minute behind the machine that made it: %v", err)
	}
}

func TestInitRefuses(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"upper case":  func(s *Settings) { s.Name = "Lab" },
		"http":        func(s *Settings) { s.URL = "http://x" },
		"path":        func(s *Settings) { s.URL = "https://x/y" },
		"endorsement": func(s *Settings) { s.Endorsement = "" },
		"no anchors":  func(s *Settings) { s.Endorsement = EndorsedByCertificate },
		"open link":   func(s *Settings) { s.Store = "postgres://attestd@db.example/attestd" },
	} {
		set := good
		change(&set)
		dir := filepath.Join(t.TempDir(), "site")
		if err := Init(dir, set, nil, time.Now); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something was left in %s", name, dir)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		want   error
	}{
		"no site":       {func(dir string) error { return os.RemoveAll(dir) }, fs.ErrNotExist},
		"readable key":  {func(dir string) error { return os.Chmod(filepath.Join(dir, fileRelease), 0o644) }, seal.ErrMode},
		"readable KEK":  {func(dir string) error { return os.Chmod(filepath.Join(dir, fileKEK), 0o640) }, seal.ErrMode},
		"lost CA key":   {func(dir string) error { return os.Remove(filepath.Join(dir, fileCAKey)) }, fs.ErrNotExist},
		"lost seal key": {func(dir string) error { return os.Remove(filepath.Join(dir, fileSeal)) }, fs.ErrNotExist},
		"broken seal":   {func(dir string) error { return os.WriteFile(filepath.Join(dir, fileSeal), make([]byte, 60), 0o600) }, seal.ErrUnwrap},
		"other CA key":  {func(dir string) error { return swap(dir, fileCAKey, fileServer) }, nil},
		"same keys":     {func(dir string) error { return swap(dir, fileServer, fileRelease) }, nil},
		"short cookie":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, fileCookie), []byte("x"), 0o600) }, nil},
		"no anchors":    {func(dir string) error { return setEndorsement(dir) }, ErrNoAnchors},
		"renamed site":  {func(dir string) error { return edit(dir, `"site": "lab"`, `"site": "other"`) }, seal.ErrUnwrap},
		"bad settings":  {func(dir string) error { return edit(dir, `"site"`, `site`) }, nil},
		"readable password": {func(dir string) error {
			store := `"store": "postgres://attestd:secret@db.example/attestd"`
			return errors.Join(edit(dir, `"replica": "a"`, `"replica": "a", `+store), os.Chmod(filepath.Join(dir, fileSettings), 0o644))
		}, seal.ErrMode},
		"mistyped setting": {func(dir string) error { return edit(dir, `"endorsement"`, `"endorsment": "hash", "endorsement"`) }, nil},
		"setting twice":    {func(dir string) error { return edit(dir, `"endorsement"`, `"endorsement": "hash", "endorsement"`) }, nil},
		"newer settings":   {func(dir string) error { return edit(dir, `"site"`, `"version": 2, "tower": true, "site"`) }, strict.ErrNewer},
		"other settings":   {func(dir string) error { return edit(dir, "https", "http") }, nil},
	} {
		dir := initSite(t)
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, time.Now); err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// swap puts a copy of one key in the place of another.
func swap(dir, to, from string) error {
	text, err := os.ReadFile(filepath.Join(dir, from))
	if err != nil {
		return err
	}
	if _, err := ca.ParseKey(text); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, to), text, 0o600)
}

func edit(dir, old, new string) error {
	name := filepath.Join(dir, fileSettings)
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(strings.Replace(string(text), old, new, 1)), 0o600)
}

func setEndorsement(dir string) error { return edit(dir, `"hash"`, `"certificate"`) }
