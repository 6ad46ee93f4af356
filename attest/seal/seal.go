// Package seal handles the site's seal key: how it rests on the server and how volumes' keys come
// from it on a device.
//
// The seal key is 32 random bytes and belongs to the site. On the server it is kept wrapped by a
// key-encryption key behind the [KEK] interface, so that the wrapped file can be copied into a backup
// and the other key can live in a token. A device never uses the seal key itself: each volume has a
// key of its own, derived by [VolumeKey], so that a disk moved to another device, or another volume
// of the same device, does not open.
//
// The package needs hardly more than the standard library, because firmware links it.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize is the size of the seal key, of a volume key and of a file KEK, in bytes.
const KeySize = 32

var (
	// ErrUnwrap says that a wrapped key was changed, or belongs to another KEK or another site.
	ErrUnwrap = errors.New("wrapped key does not open with this key-encryption key")
	// ErrVolumeName says that a volume's name cannot be used in a derivation.
	ErrVolumeName = errors.New("a volume name is 1 to 64 of a-z 0-9 . _ -")
)

// KEK wraps small secrets for storage. Context (the site's name, say) must be the same at both calls.
type KEK interface {
	Wrap(plain []byte, context string) ([]byte, error)
	Unwrap(wrapped []byte, context string) ([]byte, error)
}

// NewKey makes a random seal key.
func NewKey() ([]byte, error) {
	k := make([]byte, KeySize)
	if _, err := rand.Read(k); err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	return k, nil
}

// VolumeKey derives the key of one volume of one device: HKDF-SHA-256 over the seal key, salted with
// the device's ID (hex SHA-256 of its endorsement key's public area), for the volume's name. The caller
// wipes the result after use.
func VolumeKey(sealKey []byte, deviceID, volume string) ([]byte, error) {
	if len(sealKey) != KeySize {
		return nil, fmt.Errorf("derive volume key: seal key has %d bytes, want %d", len(sealKey), KeySize)
	}
	id, err := hex.DecodeString(deviceID)
	if err != nil || len(id) != sha256.Size {
		return nil, fmt.Errorf("derive volume key: device ID %q is not a hex SHA-256", deviceID)
	}
	if !validVolume(volume) {
		return nil, fmt.Errorf("derive volume key for %q: %w", volume, ErrVolumeName)
	}
	key, err := hkdf.Key(sha256.New, sealKey, id, "sealboot/volume/v1/"+volume, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive volume key: %w", err)
	}
	return key, nil
}

func validVolume(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// aesKEK is AES-256-GCM with a random nonce. A KEK wraps a handful of keys in its life.
type aesKEK struct{ aead cipher.AEAD }

// NewKEK makes a KEK of 32 bytes held in memory.
func NewKEK(key []byte) (KEK, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key-encryption key has %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return aesKEK{aead}, nil
}

func wrapAAD(context string) []byte { return []byte("sealboot/wrap/v1/" + context) }

func (k aesKEK) Wrap(plain []byte, context string) ([]byte, error) {
	nonce := make([]byte, k.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("wrap key: %w", err)
	}
	return k.aead.Seal(nonce, nonce, plain, wrapAAD(context)), nil
}

func (k aesKEK) Unwrap(wrapped []byte, context string) ([]byte, error) {
	n := k.aead.NonceSize()
	if len(wrapped) < n {
		return nil, ErrUnwrap
	}
	plain, err := k.aead.Open(nil, wrapped[:n], wrapped[n:], wrapAAD(context))
	if err != nil {
		return nil, ErrUnwrap
	}
	return plain, nil
}
