package site

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealboot/sealboot/attest/seal"
)

func TestSecrets(t *testing.T) {
	dir := initSite(t)
	s, err := Load(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	device, other := strings.Repeat("a1", 32), strings.Repeat("b2", 32)
	set := func(n SecretName, value string) {
		t.Helper()
		if err := s.SetSecret(n, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	set(SecretName{"", "wifi"}, "old")
	set(SecretName{"", "wifi"}, "site's\x00\n")
	set(SecretName{device, "wifi"}, "own")
	set(SecretName{device, "vpn.key"}, "k")
	for id, want := range map[string]map[string][]byte{
		device: {"wifi": []byte("own"), "vpn.key": []byte("k")},
		other:  {"wifi": []byte("site's\x00\n")},
	} {
		got, err := s.Secrets(id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id[:4], diff)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "secrets", "site", "wifi"))
	if err != nil || bytes.Contains(raw, []byte("site's")) {
		t.Errorf("stored in clear, or %v", err)
	}
	names, err := s.SecretNames()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]SecretName{{device, "vpn.key"}, {device, "wifi"}, {"", "wifi"}}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if err := s.RemoveSecret(SecretName{device, "vpn.key"}); err != nil {
		t.Error(err)
	}
	if err := s.RemoveSecret(SecretName{device, "vpn.key"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	// A file that was moved to another place, say to a device of the thief's, does not open.
	moved := filepath.Join(dir, "secrets", other)
	if err := os.Rename(filepath.Join(dir, "secrets", device), moved); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Secrets(other); !errors.Is(err, seal.ErrUnwrap) {
		t.Errorf("moved secret: %v, want ErrUnwrap", err)
	}
}

func TestSecretIsRefusedWhenSet(t *testing.T) {
	s, err := Load(initSite(t), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	device := strings.Repeat("a1", 32)
	if err := s.SetSecret(SecretName{device, "a"}, make([]byte, 1500)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		name SecretName
		size int
	}{
		"path":                                 {SecretName{"", "../x"}, 1},
		"hidden":                               {SecretName{"", ".x"}, 1},
		"no name":                              {SecretName{"", ""}, 1},
		"upper case":                           {SecretName{"", "A"}, 1},
		"device is no ID":                      {SecretName{"../..", "a"}, 1},
		"empty":                                {SecretName{"", "b"}, 0},
		"too large":                            {SecretName{"", "b"}, MaxSecrets + 1},
		"too large with another":               {SecretName{device, "b"}, 600},
		"the site's, too large for one device": {SecretName{"", "b"}, 600},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.SetSecret(c.name, make([]byte, c.size)); !errors.Is(err, ErrSecret) {
				t.Errorf("SetSecret() = %v, want ErrSecret", err)
			}
		})
	}
	if err := s.SetSecret(SecretName{device, "a"}, make([]byte, 2000)); err != nil {
		t.Errorf("replaced by a larger one that fits: %v", err)
	}
}
