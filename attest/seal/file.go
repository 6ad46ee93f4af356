package seal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sealboot/sealboot/measure/atomicfile"
)

// ErrMode says that others than its owner can read a secret's file.
var ErrMode = errors.New("file can be read by others than its owner")

// maxSecretFile bounds what ReadFile reads: keys, certificates, tokens.
const maxSecretFile = 64 << 10

// WriteFile creates a file that only its owner can read, at no instant otherwise, and makes it
// durable. It never replaces a file.
func WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create secret file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write secret file %s: %w", path, err)
	}
	return nil
}

// ReadFile reads a file made by WriteFile and refuses one whose mode lets others in ([ErrMode]).
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read secret file: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read secret file: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o; run chmod 600, and replace the key if others may have read it",
			ErrMode, path, fi.Mode().Perm())
	}
	if fi.Size() > maxSecretFile {
		return nil, fmt.Errorf("secret file %s has %d bytes, want at most %d", path, fi.Size(), maxSecretFile)
	}
	data := make([]byte, fi.Size()) // io.ReadAll leaves pieces behind when its buffer grows
	if _, err := io.ReadFull(f, data); err != nil {
		clear(data)
		return nil, fmt.Errorf("read secret file %s: %w", path, err)
	}
	return data, nil
}

// CreateFileKEK makes a new key-encryption key and its file.
func CreateFileKEK(path string) (KEK, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if err := WriteFile(path, key); err != nil {
		return nil, err
	}
	return NewKEK(key)
}

// OpenFileKEK reads a key-encryption key made by CreateFileKEK.
func OpenFileKEK(path string) (KEK, error) {
	key, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	k, err := NewKEK(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
