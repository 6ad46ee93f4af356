package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var deviceID = strings.Repeat("ab", 32)

func TestVolumeKeyVector(t *testing.T) {
	// The derivation is an on-disk format: a change of this value locks every volume in the field.
	key, err := VolumeKey(bytes.Repeat([]byte{7}, KeySize), deviceID, "data")
	if err != nil {
		t.Fatal(err)
	}
	const want = "2b13273763f126eaf5b367dd21b0788b1a5ca8331cfec4e052d13f9287437cb0"
	if got := hex.EncodeToString(key); got != want {
		t.Errorf("VolumeKey = %s, want %s", got, want)
	}
}

func TestVolumeKeyDiffers(t *testing.T) {
	k := bytes.Repeat([]byte{7}, KeySize)
	seen := map[string]string{}
	for name, in := range map[string][3]string{
		"base":   {string(k), deviceID, "data"},
		"volume": {string(k), deviceID, "data2"},
		"device": {string(k), strings.Repeat("ac", 32), "data"},
		"site":   {string(bytes.Repeat([]byte{8}, KeySize)), deviceID, "data"},
	} {
		key, err := VolumeKey([]byte(in[0]), in[1], in[2])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, dup := seen[string(key)]; dup {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[string(key)] = name
	}
}

func TestVolumeKeyRefuses(t *testing.T) {
	k := bytes.Repeat([]byte{7}, KeySize)
	for name, f := range map[string]func() ([]byte, error){
		"short key":     func() ([]byte, error) { return VolumeKey(k[:31], deviceID, "data") },
		"short id":      func() ([]byte, error) { return VolumeKey(k, deviceID[:62], "data") },
		"no hex":        func() ([]byte, error) { return VolumeKey(k, strings.Repeat("zz", 32), "data") },
		"empty volume":  func() ([]byte, error) { return VolumeKey(k, deviceID, "") },
		"path volume":   func() ([]byte, error) { return VolumeKey(k, deviceID, "a/b") },
		"long volume":   func() ([]byte, error) { return VolumeKey(k, deviceID, strings.Repeat("a", 65)) },
		"dashed volume": func() ([]byte, error) { return VolumeKey(k, deviceID, "A") },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWrap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	made, err := CreateFileKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFileKEK(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second CreateFileKEK: %v, want fs.ErrExist", err)
	}
	w, err := made.Wrap([]byte("secret"), "site")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenFileKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := opened.Unwrap(w, "site"); err != nil || string(got) != "secret" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
	if _, err := opened.Unwrap(w, "other"); !errors.Is(err, ErrUnwrap) {
		t.Errorf("other context: %v, want ErrUnwrap", err)
	}
	for i := range w {
		bad := bytes.Clone(w)
		bad[i] ^= 1
		if _, err := opened.Unwrap(bad, "site"); !errors.Is(err, ErrUnwrap) {
			t.Errorf("byte %d flipped: %v, want ErrUnwrap", i, err)
		}
		if _, err := opened.Unwrap(w[:i], "site"); !errors.Is(err, ErrUnwrap) {
			t.Errorf("cut at %d: %v, want ErrUnwrap", i, err)
		}
	}
}

func TestReadFileRefusesOpenModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteFile(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o644, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); !errors.Is(err, ErrMode) {
			t.Errorf("mode %o: %v, want ErrMode", mode, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, n := range []int{0, 16, KeySize + 1} {
		if _, err := NewKEK(make([]byte, n)); err == nil {
			t.Errorf("a key-encryption key of %d bytes was taken", n)
		}
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteFile(path, make([]byte, maxSecretFile+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil {
		t.Errorf("a file of %d bytes was read, want at most %d", maxSecretFile+1, maxSecretFile)
	}
}
