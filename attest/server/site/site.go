// Package site is the directory that makes a server the attestd of one site: its settings, its keys and
// its data. [Init] creates it, [Load] opens it and refuses one that is incomplete or that others can read.
//
//	attestd.json  settings; no secret but the store's password, if its URL has one
//	ca.crt        the site CA's certificate
//	ca.key        its key: agent certificates and attestd's TLS certificate
//	server.key    signs messages, audit heads, attestation results
//	release.key   signs approvals for TPMs, and nothing else
//	cookie.key    seals challenges between two messages
//	seal.key      the site's seal key, wrapped by kek.key
//	kek.key       the key-encryption key
//	secrets/      the operator's own secrets for devices' operating systems, wrapped by kek.key
//	ek-roots.pem  certificates of TPM manufacturers (or their intermediates) that may endorse a device
//	attestd.db    the store, unless the settings name a PostgreSQL database
//
// Everything but ca.crt and ek-roots.pem has mode 0600.
package site

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/seal"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/measure/strict"
)

// The ways in which a device's endorsement key may be trusted.
const (
	EndorsedByCertificate = "certificate" // its certificate chains to ek-roots.pem
	EndorsedByHash        = "hash"        // an operator vouches for its hash; no manufacturer is asked
)

// ErrNoAnchors says that no manufacturer is trusted although the settings want endorsement by certificate.
var ErrNoAnchors = errors.New("no trust anchors for endorsement keys")

// settingsVersion is that of attestd.json.
const settingsVersion = 1

// Settings is attestd.json.
type Settings struct {
	Version     int    `json:"version,omitempty"` // of this format; 0 is 1, the only one
	Name        string `json:"site"`
	URL         string `json:"url"`             // https://host:port, as devices reach it
	Endorsement string `json:"endorsement"`     // EndorsedByCertificate or EndorsedByHash
	Replica     string `json:"replica"`         // this server's audit chain
	Store       string `json:"store,omitempty"` // postgres:// URL, see [store.CheckDSN], or file; empty means attestd.db next to this one
}

// Site is an opened directory. It holds secrets: it is not printed.
type Site struct {
	Settings
	Dir        string
	CA         *ca.CA
	ServerKey  crypto.Signer // ECDSA P-256
	ReleaseKey crypto.Signer // ECDSA P-256
	CookieKey  wire.CookieKey
	SealKey    []byte
	EKRoots    *x509.CertPool // nil when endorsement is by hash

	kek seal.KEK
}

const (
	fileSettings = "attestd.json"
	fileCACert   = "ca.crt"
	fileCAKey    = "ca.key"
	fileServer   = "server.key"
	fileRelease  = "release.key"
	fileCookie   = "cookie.key"
	fileSeal     = "seal.key"
	fileKEK      = "kek.key"
	fileRoots    = "ek-roots.pem"
	fileStore    = "attestd.db"
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

func (s Settings) check() error {
	if !validName.MatchString(s.Name) {
		return fmt.Errorf("site name %q: want 1 to 63 of a-z 0-9 . - (it becomes part of certificates)", s.Name)
	}
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("url %q: want https://HOST[:PORT], as devices will reach attestd", s.URL)
	}
	if s.Endorsement != EndorsedByCertificate && s.Endorsement != EndorsedByHash {
		return fmt.Errorf("endorsement %q: want %q or %q", s.Endorsement, EndorsedByCertificate, EndorsedByHash)
	}
	if !validName.MatchString(s.Replica) {
		return fmt.Errorf("replica %q: want 1 to 63 of a-z 0-9 . -", s.Replica)
	}
	return nil
}

// holdsPassword tells whether the store's URL has one: who can write there lets in whom he likes.
func (s Settings) holdsPassword() bool {
	u, err := url.Parse(s.Store)
	if err != nil {
		return true
	}
	_, has := u.User.Password()
	return has || u.Query().Has("password")
}

// Host is the name or address in the site's URL, for its TLS certificate.
func (s Settings) Host() string {
	u, err := url.Parse(s.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Init creates the directory of a new site. Roots are PEM certificates of TPM manufacturers; they may be
// empty when endorsement is by hash. The directory appears whole or not at all, and an existing one is
// never touched.
func Init(dir string, set Settings, roots []byte, now func() time.Time) error {
	if set.Replica == "" {
		set.Replica = "a"
	}
	if err := set.check(); err != nil {
		return err
	}
	if _, err := parseRoots(set.Endorsement, roots); err != nil {
		return err
	}
	if err := store.CheckDSN(set.Store); err != nil {
		return fmt.Errorf("create site: %w", err)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("create site: %s is not empty: choose another directory: %w", dir, fs.ErrExist)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("create site: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".sealboot-site-")
	if err != nil {
		return fmt.Errorf("create site: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp, set, roots, now); err != nil {
		return fmt.Errorf("create site: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("create site: %w", err)
	}
	return nil
}

func fill(dir string, set Settings, roots []byte, now func() time.Time) error {
	var caCert []byte
	for _, name := range []string{fileCAKey, fileServer, fileRelease} {
		key, err := ca.NewKey()
		if err != nil {
			return err
		}
		if name == fileCAKey {
			if _, caCert, err = ca.Create(set.Name, key, now); err != nil {
				return err
			}
		}
		text, err := ca.MarshalKey(key)
		if err != nil {
			return err
		}
		err = seal.WriteFile(filepath.Join(dir, name), text)
		clear(text)
		if err != nil {
			return err
		}
	}
	cookie, err := seal.NewKey()
	if err != nil {
		return err
	}
	defer clear(cookie)
	if err := seal.WriteFile(filepath.Join(dir, fileCookie), cookie); err != nil {
		return err
	}
	if err := newSealKey(dir, set.Name); err != nil {
		return err
	}
	settings, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return err
	}
	if err := seal.WriteFile(filepath.Join(dir, fileSettings), append(settings, '\n')); err != nil {
		return err
	}
	for name, data := range map[string][]byte{fileCACert: caCert, fileRoots: roots} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func newSealKey(dir, site string) error {
	kek, err := seal.CreateFileKEK(filepath.Join(dir, fileKEK))
	if err != nil {
		return err
	}
	key, err := seal.NewKey()
	if err != nil {
		return err
	}
	defer clear(key)
	wrapped, err := kek.Wrap(key, site)
	if err != nil {
		return err
	}
	return seal.WriteFile(filepath.Join(dir, fileSeal), wrapped)
}

// Load opens a site's directory.
func Load(dir string, now func() time.Time) (*Site, error) {
	s := &Site{Dir: dir}
	if err := s.load(now); err != nil {
		return nil, fmt.Errorf("open site in %s: %w", dir, err)
	}
	return s, nil
}

func (s *Site) load(now func() time.Time) error {
	text, err := os.ReadFile(s.path(fileSettings))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w; \"sealboot site init --dir %s\" makes a site", err, s.Dir)
	}
	if err != nil {
		return err
	}
	err = strict.CheckVersion(text, settingsVersion)
	if err == nil {
		err = strict.Decode(text, &s.Settings)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", fileSettings, err)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("%s: %w", fileSettings, err)
	}
	if s.holdsPassword() {
		if _, err := seal.ReadFile(s.path(fileSettings)); err != nil {
			return fmt.Errorf("%s holds the store's password: %w", fileSettings, err)
		}
	}
	caCert, err := os.ReadFile(s.path(fileCACert))
	if err != nil {
		return err
	}
	caKey, err := s.key(fileCAKey)
	if err != nil {
		return err
	}
	if s.CA, err = ca.Open(s.Name, caCert, caKey, now); err != nil {
		return err
	}
	server, err := s.key(fileServer)
	if err != nil {
		return err
	}
	release, err := s.key(fileRelease)
	if err != nil {
		return err
	}
	if server.Equal(release) {
		return fmt.Errorf("%s and %s hold the same key: they sign different things and must differ", fileServer, fileRelease)
	}
	s.ServerKey, s.ReleaseKey = server, release
	return s.loadSecrets()
}

func (s *Site) loadSecrets() error {
	cookie, err := seal.ReadFile(s.path(fileCookie))
	if err != nil {
		return err
	}
	defer clear(cookie)
	if len(cookie) != len(s.CookieKey) {
		return fmt.Errorf("%s has %d bytes, want %d", fileCookie, len(cookie), len(s.CookieKey))
	}
	copy(s.CookieKey[:], cookie)
	if s.kek, err = seal.OpenFileKEK(s.path(fileKEK)); err != nil {
		return err
	}
	wrapped, err := seal.ReadFile(s.path(fileSeal))
	if err != nil {
		return err
	}
	if s.SealKey, err = s.kek.Unwrap(wrapped, s.Name); err != nil {
		return fmt.Errorf("%s: %w", fileSeal, err)
	}
	roots, err := os.ReadFile(s.path(fileRoots))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.EKRoots, err = parseRoots(s.Endorsement, roots)
	return err
}

// ServerPublic is the key that devices check messages with.
func (s *Site) ServerPublic() *ecdsa.PublicKey { return s.ServerKey.Public().(*ecdsa.PublicKey) }

// ReleasePublic is the key that devices' TPMs check approvals with.
func (s *Site) ReleasePublic() *ecdsa.PublicKey { return s.ReleaseKey.Public().(*ecdsa.PublicKey) }

func (s *Site) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Site) key(name string) (*ecdsa.PrivateKey, error) {
	text, err := seal.ReadFile(s.path(name))
	if err != nil {
		return nil, err
	}
	defer clear(text)
	k, err := ca.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

func parseRoots(endorsement string, text []byte) (*x509.CertPool, error) {
	if endorsement == EndorsedByHash {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%w: %s holds no certificate; add the TPM manufacturers' CAs, or choose endorsement %q",
			ErrNoAnchors, fileRoots, EndorsedByHash)
	}
	return pool, nil
}

// OpenStore opens the site's store.
func (s *Site) OpenStore(ctx context.Context, now func() time.Time) (*store.Store, error) {
	dsn := s.Store
	if dsn == "" {
		dsn = s.path(fileStore)
	}
	db, err := store.Open(ctx, store.Config{DSN: dsn, Replica: s.Replica, Signer: s.ServerKey, Now: now})
	if err != nil { // without the DSN, which may hold a password
		return nil, fmt.Errorf("open the store of the site in %s: %w", s.Dir, err)
	}
	return db, nil
}
