// Package config reads the two configuration files of a loader.
//
// The site config is part of the loader image: it holds the trust roots of a
// site and says what to boot. The host config belongs to one machine and says
// nothing but how it reaches the network; anyone who can write it can at most
// keep the machine offline.
//
// Both are strict JSON: unknown and repeated fields are refused, and every
// error names the field and what was expected, so that a file is fixed on the
// desk by the very code that will read it in the machine. A caller that
// measures a file does so with its bytes as read, before it calls Parse.
package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/measure/strict"
)

const (
	// MaxSiteSize is the most bytes that a site config may have.
	MaxSiteSize = 256 << 10
	// MaxHostSize is the most bytes that a host config may have.
	MaxHostSize = 16 << 10

	maxItems = 64
)

// SitePath is where a loader finds its site config.
const SitePath = "/etc/sealboot/site.json"

// VersionPath is where a loader finds its own version, a line for people.
const VersionPath = "/etc/sealboot/version"

// formatVersion is that of site config and host config.
const formatVersion = 1

// A Site is what a loader image is built for.
type Site struct {
	// Version of this format; 0 is 1, the only one.
	Version int `json:"version,omitempty"`
	// Name is the site's name: for people, and part of what is attested.
	Name string `json:"site"`
	// Attestd is the server that judges the boot. Without it the image is
	// measured and booted, and nothing is released.
	Attestd *Attestd `json:"attestd,omitempty"`
	// ServerKey is the PKIX form of the P-256 key with which attestd signs.
	ServerKey []byte `json:"serverKey,omitempty"`
	// ReleaseKey is the PKIX form of the P-256 key that signs TPM approvals.
	ReleaseKey []byte `json:"releaseKey,omitempty"`
	// Sources are tried in this order.
	Sources []Source `json:"sources"`
	// Cmdline is the operating system's command line. Where an image brings
	// its own, it is added to the end of it.
	Cmdline string `json:"cmdline,omitempty"`
	// PCRs moves the loader's measurements; zero means 12 and 13.
	PCRs PCRs `json:"pcrs,omitzero"`
	// Clock says how much a boot needs to know the time: prefer (the
	// default), require, or off (lab only).
	Clock string `json:"clock,omitempty"`
	// Floor says what happens on a machine whose TPM holds no rollback floor:
	// require (the default with an attestd) boots nothing, optional (the
	// default without) boots images that have no signed version and, where
	// attestd judges them, any from a registry or a medium.
	Floor string `json:"floor,omitempty"`
	// BuildTime is when the loader was built, RFC 3339 in UTC: the clock is
	// never before it.
	BuildTime string `json:"buildTime,omitempty"`
	// Rounds is how often all sources are tried before End; 0 means 5.
	Rounds int `json:"rounds,omitempty"`
	// End is what happens when nothing could be booted: reboot (the
	// default), retry, poweroff, or shell.
	End string `json:"end,omitempty"`
	// Shell says that the initramfs has a shell. End may then be "shell".
	Shell bool `json:"shell,omitempty"`
	// Watchdog is how many seconds the operating system has, from kexec on, to
	// take over the machine's watchdog; 0 switches it off before kexec.
	Watchdog int `json:"watchdog,omitempty"`
	// Console says how the boot is shown.
	Console Console `json:"console,omitzero"`
	// Lab permits what no machine in the field may have: a host config from
	// QEMU, clock "off", and an attestd without TLS.
	Lab bool `json:"lab,omitempty"`
}

// Attestd says where the attestation server is and which CA its TLS
// certificate must come from.
type Attestd struct {
	URL string `json:"url"`
	CA  string `json:"ca,omitempty"` // PEM
	// Attempts is how often it is asked for the release of a measured image
	// before the machine is reset; 0 means 8.
	Attempts int `json:"attempts,omitempty"`
	// JoinToken lets a machine that no one enrolled ask to be: it then waits for
	// an operator. Anyone who has the loader's image can read it.
	JoinToken string `json:"joinToken,omitempty"`
}

// A Console is where a boot is shown, next to the kernel's console.
type Console struct {
	// Lines shows progress as lines, not as a bar that is redrawn: for
	// consoles that are recorded.
	Lines bool `json:"lines,omitempty"`
	// JSON is a device, such as /dev/ttyS1, that gets one JSON object a line.
	JSON string `json:"json,omitempty"`
}

// PCRs are the numbers of the two registers that the loader extends.
type PCRs struct {
	Image     int `json:"image,omitempty"`     // what will run; 0 means 12
	Authority int `json:"authority,omitempty"` // why it may run; 0 means 13
}

// What a machine without a rollback floor does.
const (
	FloorRequire  = "require"
	FloorOptional = "optional"
)

// The types of sources.
const (
	SourceOCI   = "oci"   // an image in a registry
	SourceTUF   = "tuf"   // a target of a TUF repository
	SourceMedia = "media" // an OCI layout or TUF bundle on a volume labelled SB-MEDIA
)

// A Source is one place to boot from. The fields that a type does not use are
// refused in it.
type Source struct {
	Type string `json:"type"`

	// Ref is the image. oci: registry/repository:tag or @digest. media: the
	// tag or digest in the layout; empty means its only image.
	Ref string `json:"ref,omitempty"`
	// Mirrors are tried in order after the first place. oci:
	// registry/repository, with the tag or digest of Ref. tuf: URLs of a
	// directory that holds "metadata" and "targets".
	Mirrors []string `json:"mirrors,omitempty"`
	// CA signs the TLS certificates of the source and its mirrors (PEM): a
	// loader knows no public CAs.
	CA string `json:"ca,omitempty"`
	// PlainHTTP fetches without TLS.
	PlainHTTP bool `json:"plainHTTP,omitempty"`
	// Auth is shown to the registry. It is in the loader image, readable by
	// anyone who holds the machine: give it read access and nothing more.
	Auth *Auth `json:"auth,omitempty"`
	// Keys are the PKIX forms of the public keys that sign images.
	Keys [][]byte `json:"keys,omitempty"`
	// Threshold is how many of Keys must have signed; 0 means all of them.
	Threshold int `json:"threshold,omitempty"`
	// Identity is the repository, as registry/repository, that a signature must
	// name for the image: keys that sign more than one image admit only this one.
	// Empty means that it may name any.
	Identity string `json:"identity,omitempty"`
	// Platform picks from an image index, as in "linux/amd64"; empty means
	// the machine's own.
	Platform string `json:"platform,omitempty"`
	// Disk is where a disk image of this source is written to: a device such
	// as /dev/vda, or PARTLABEL=name or SERIAL=number, as the kernel sees them.
	// What it held is lost. Without it, disk images are refused.
	Disk string `json:"disk,omitempty"`

	// Root is the trusted root.json of a TUF repository.
	Root []byte `json:"root,omitempty"`
	// MetadataURL and TargetsURL are where the repository is; an empty
	// TargetsURL means the directory "targets" next to the metadata's.
	MetadataURL string `json:"metadataURL,omitempty"`
	TargetsURL  string `json:"targetsURL,omitempty"`
	// Target is the name of what to boot.
	Target string `json:"target,omitempty"`
}

// Auth is a user name and password, an identity token, or a client certificate
// with its private key (PEM), for one registry; a certificate may come with one of
// the others.
type Auth struct {
	// Registry is the host, with its port if that is not the usual one, that the
	// credentials are shown to, and no other is. Empty means the registry of Ref. A
	// TUF repository needs it: its targets name registries, and the signers of
	// targets must not choose who gets to see the site's credentials.
	Registry string `json:"registry,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Token    string `json:"token,omitempty"`
	Cert     string `json:"cert,omitempty"`
	Key      string `json:"key,omitempty"`
}

// ParseSite reads and checks a site config, and fills in the defaults. All
// errors are [FieldError]s, joined.
func ParseSite(b []byte) (*Site, error) {
	if len(b) > MaxSiteSize {
		return nil, fmt.Errorf("site config: want at most %d bytes, found %d", MaxSiteSize, len(b))
	}
	s := new(Site)
	if err := strict.CheckVersion(b, formatVersion); err != nil {
		return nil, fmt.Errorf("site config: %w", err)
	}
	if err := decodeStrict(b, s); err != nil {
		return nil, fmt.Errorf("site config: %w", err)
	}
	s.setDefaults()
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("site config: %w", err)
	}
	return s, nil
}

// Marshal returns s as a site config file, checked as ParseSite would.
func (s *Site) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s); err != nil {
		return nil, fmt.Errorf("site config: encode: %w", err)
	}
	if _, err := ParseSite(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (s *Site) setDefaults() {
	if s.PCRs.Image == 0 {
		s.PCRs.Image = 12
	}
	if s.PCRs.Authority == 0 {
		s.PCRs.Authority = 13
	}
	if s.Clock == "" {
		s.Clock = "prefer"
	}
	if s.Floor == "" {
		s.Floor = FloorOptional
		if s.Attestd != nil {
			s.Floor = FloorRequire
		}
	}
	if s.Rounds == 0 {
		s.Rounds = 5
	}
	if s.End == "" {
		s.End = "reboot"
	}
	for i := range s.Sources {
		if src := &s.Sources[i]; src.Threshold == 0 {
			src.Threshold = len(src.Keys)
		}
	}
}

// PublicKey reads the PKIX form of a P-256 key, which is how a site config
// carries them.
func PublicKey(der []byte) (*ecdsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("want a public key (PKIX), found something else")
	}
	p, ok := k.(*ecdsa.PublicKey)
	if !ok || p.Curve != elliptic.P256() {
		return nil, fmt.Errorf("want a P-256 public key, found %T", k)
	}
	return p, nil
}

// CertPool reads one or more PEM certificates.
func CertPool(text string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	n := 0
	for rest := []byte(text); ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if len(bytes.TrimSpace(rest)) > 0 || n == 0 {
				return nil, errors.New("want PEM certificates, found something else")
			}
			return pool, nil
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil || b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("want PEM certificates, found a bad block of type %q", b.Type)
		}
		pool.AddCert(c)
	}
}

// Registry is the host in a reference.
func Registry(ref string) string {
	host, _, _ := strings.Cut(ref, "/")
	return host
}

// CredentialHost is the only registry that the credentials of src are for; empty
// without credentials.
func (src *Source) CredentialHost() string {
	switch {
	case src.Auth == nil:
		return ""
	case src.Auth.Registry != "" || src.Type != SourceOCI:
		return src.Auth.Registry
	}
	return Registry(src.Ref)
}
