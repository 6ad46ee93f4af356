// Package image reads from verified TUF metadata what can be booted.
//
// A target is bootable if its "custom" has a member "sealboot", whose form is
// [Custom]. Everything else in "custom" belongs to other tools.
package image

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sealboot/sealboot/measure/plaintext"
	"github.com/sealboot/sealboot/measure/strict"
)

// The kinds of bootable target.
const (
	KindLinux  = "linux"  // the target is a [Linux] that names kernel and initrd
	KindUKI    = "uki"    // the target is a unified kernel image
	KindBundle = "bundle" // the target is an OCI layout in a tar, with one image
	KindOCI    = "oci"    // the image is in a registry; its digest is in [Custom]
)

// Limits of what is read, in bytes.
const (
	maxCustom  = 16 << 10
	maxLinux   = 64 << 10
	maxCmdline = 4096
	maxName    = 1024
)

// ErrInvalid is wrapped by every error about what a target says of itself.
var ErrInvalid = errors.New("not a bootable target")

// Custom is the member "sealboot" of a target's "custom".
type Custom struct {
	Kind string `json:"kind"`
	// Version of the image, at least 1. An image floor compares it.
	Version uint64 `json:"version"`
	// Architecture is a GOARCH value, such as "amd64".
	Architecture string `json:"architecture"`
	// Cmdline is the kernel's command line, for a UKI that has none.
	Cmdline string `json:"cmdline,omitempty"`
	// OCI says where an image in a registry is; for that kind alone.
	OCI *OCI `json:"oci,omitempty"`
	// ReferenceValues is the name of the target that holds what a verifier
	// should see after this image has booted.
	ReferenceValues string `json:"referenceValues,omitempty"`
}

// OCI names an image in a registry. Trust comes from the digest; the repository
// is where to look first, and any mirror will do.
type OCI struct {
	Repository string `json:"repository"` // registry/name
	Digest     string `json:"digest"`     // of the platform's manifest: sha256:HEX
}

// Linux is the content of a target of [KindLinux]: names of other targets.
type Linux struct {
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd,omitempty"`
	DTB     string `json:"dtb,omitempty"`
	Cmdline string `json:"cmdline,omitempty"`
}

// ParseCustom reads the "custom" of a target, as it was signed.
func ParseCustom(data []byte) (*Custom, error) {
	if len(data) > maxCustom {
		return nil, fmt.Errorf("%w: its custom has %d bytes, at most %d", ErrInvalid, len(data), maxCustom)
	}
	ours, err := member(data)
	if err != nil {
		return nil, fmt.Errorf("%w: its custom: %w", ErrInvalid, err)
	}
	if len(ours) == 0 {
		return nil, fmt.Errorf("%w: its custom has no member sealboot", ErrInvalid)
	}
	c := new(Custom)
	if err := strict.Decode(ours, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, c.Validate()
}

// member returns the member "sealboot" of a custom. It must be there once and in
// this case: of two, encoding/json takes the later, and other tools see another.
func member(custom []byte) (json.RawMessage, error) {
	const ours = "sealboot"
	if len(custom) == 0 {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(custom, &members); err != nil || members == nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(custom))
	_, err := dec.Token() // the brace: it was parsed just now
	for n := 0; err == nil && dec.More(); {
		var name json.Token
		if name, err = dec.Token(); err != nil {
			break
		}
		if name, ok := name.(string); ok && strings.EqualFold(name, ours) {
			if n++; n > 1 || name != ours {
				return nil, fmt.Errorf("member %q is repeated or in another case", ours)
			}
		}
		err = dec.Decode(new(json.RawMessage))
	}
	return members[ours], err
}

// Validate checks what a publisher is about to sign, and a device to believe.
func (c *Custom) Validate() error {
	switch {
	case c.Version == 0:
		return fmt.Errorf("%w: it has no version", ErrInvalid)
	case c.Architecture == "" || !printable(c.Architecture, 32):
		return fmt.Errorf("%w: architecture %.40q", ErrInvalid, c.Architecture)
	case !printable(c.Cmdline, maxCmdline) || !printable(c.ReferenceValues, maxName):
		return fmt.Errorf("%w: its command line or reference values are too long or not printable", ErrInvalid)
	case (c.OCI != nil) != (c.Kind == KindOCI):
		return fmt.Errorf("%w: kind %.40q and a registry do not go together", ErrInvalid, c.Kind)
	}
	switch c.Kind {
	case KindOCI:
		return c.OCI.validate()
	case KindUKI:
		return nil
	case KindLinux, KindBundle:
		if c.Cmdline != "" {
			return fmt.Errorf("%w: kind %s has its command line elsewhere", ErrInvalid, c.Kind)
		}
		return nil
	}
	return fmt.Errorf("%w: kind %.40q is none of %s, %s, %s, %s", ErrInvalid, c.Kind, KindLinux, KindUKI, KindBundle, KindOCI)
}

func (o *OCI) validate() error {
	if !strings.Contains(o.Repository, "/") || !printable(o.Repository, maxName) || strings.ContainsAny(o.Repository, " @") {
		return fmt.Errorf("%w: registry repository %.80q", ErrInvalid, o.Repository)
	}
	digest, ok := strings.CutPrefix(o.Digest, "sha256:")
	sum, err := hex.DecodeString(digest)
	if !ok || err != nil || len(sum) != 32 || digest != strings.ToLower(digest) {
		return fmt.Errorf("%w: digest %.80q", ErrInvalid, o.Digest)
	}
	return nil
}

// ParseLinux reads the content of a target of [KindLinux].
func ParseLinux(data []byte) (*Linux, error) {
	l := new(Linux)
	if err := strict.Decode(data, l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return l, l.Validate()
}

// Validate is like that of [Custom].
func (l *Linux) Validate() error {
	if l.Kernel == "" {
		return fmt.Errorf("%w: it names no kernel", ErrInvalid)
	}
	for _, name := range []string{l.Kernel, l.Initrd, l.DTB} {
		if !printable(name, maxName) {
			return fmt.Errorf("%w: target name %.80q", ErrInvalid, name)
		}
	}
	if !printable(l.Cmdline, maxCmdline) {
		return fmt.Errorf("%w: its command line is too long or not printable", ErrInvalid)
	}
	return nil
}

// printable says whether s is at most max bytes of printable ASCII.
func printable(s string, max int) bool {
	return len(s) <= max && plaintext.Is(s)
}
