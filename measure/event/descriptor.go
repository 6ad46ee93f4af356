package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// The kinds of image that can be booted.
const (
	KindLinux     = "linux"     // kernel and initrd
	KindUKI       = "uki"       // a unified kernel image
	KindContainer = "container" // a container image that has a kernel in it
	KindDisk      = "disk"      // a disk image
)

// The roles that an artifact can have in an image.
const (
	RoleConfig     = "config"      // the image's own configuration, as it was published
	RoleDisk       = "disk"        // the raw, decompressed content of a disk
	RoleVerityRoot = "verity-root" // the dm-verity root hash of a disk
	RoleUKI        = "uki"
	RoleKernel     = "kernel"
	RoleInitrd     = "initrd"
	RoleCmdline    = "cmdline" // the final bytes of the command line
	RoleDTB        = "dtb"
	RoleLayer      = "layer"
)

// MaxArtifacts is the most artifacts that a descriptor can list.
const MaxArtifacts = 512

// Artifact is one source artifact of an image.
type Artifact struct {
	Role   string `json:"role"`
	SHA256 string `json:"sha256"` // lower-case hex
	Size   int64  `json:"size"`   // bytes
}

// Descriptor says what will be booted. It names the bytes of the artifacts and
// nothing about where they came from, so that the same image measures the same
// from a registry, a repository and a USB stick.
//
// The artifacts are in the order of [Roles] of the kind; a role is used once,
// except [RoleLayer].
type Descriptor struct {
	Kind      string     `json:"kind"`
	Artifacts []Artifact `json:"artifacts"`
}

// Roles returns the roles that an image of a kind can have, in the order in
// which they are measured, or nil if there is no such kind.
func Roles(kind string) []string {
	switch kind {
	case KindLinux:
		return []string{RoleConfig, RoleKernel, RoleInitrd, RoleCmdline, RoleDTB}
	case KindUKI:
		return []string{RoleConfig, RoleUKI, RoleCmdline}
	case KindContainer:
		return []string{RoleConfig, RoleKernel, RoleInitrd, RoleCmdline, RoleDTB, RoleLayer}
	case KindDisk:
		return []string{RoleConfig, RoleDisk, RoleVerityRoot, RoleKernel, RoleInitrd, RoleCmdline, RoleDTB}
	}
	return nil
}

// Marshal returns the canonical encoding of d, which is what the digest in its
// boot-descriptor record is over.
func (d Descriptor) Marshal() ([]byte, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	b, err := marshalCanonical(d)
	if err != nil {
		return nil, fmt.Errorf("%w: encode descriptor: %w", ErrInvalid, err)
	}
	return b, nil
}

// Records returns everything that is measured into [PCRImage] for d: the
// boot-descriptor record, then one record an artifact.
func (d Descriptor) Records() ([]Record, error) {
	b, err := d.Marshal()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	records := make([]Record, 0, 1+len(d.Artifacts))
	records = append(records, Record{
		Type:   TypeBootDescriptor,
		Name:   d.Kind,
		SHA256: hex.EncodeToString(sum[:]),
		Size:   int64(len(b)),
	})
	for _, a := range d.Artifacts {
		records = append(records, Record{Type: TypeArtifact, Name: a.Role, SHA256: a.SHA256, Size: a.Size})
	}
	return records, nil
}

// DescriptorOf returns the descriptor that has exactly these records: the
// inverse of [Descriptor.Records]. It fails if the records are anything else.
func DescriptorOf(records []Record) (Descriptor, error) {
	if len(records) == 0 || records[0].Type != TypeBootDescriptor {
		return Descriptor{}, fmt.Errorf("%w: the records do not begin with a boot descriptor", ErrInvalid)
	}
	d := Descriptor{Kind: records[0].Name}
	for _, r := range records[1:] {
		d.Artifacts = append(d.Artifacts, Artifact{Role: r.Name, SHA256: r.SHA256, Size: r.Size})
	}
	want, err := d.Records()
	if err != nil {
		return Descriptor{}, err
	}
	for i := range want {
		if !equal(want[i], records[i]) {
			return Descriptor{}, fmt.Errorf("%w: record %d is not what the boot descriptor makes it", ErrInvalid, i)
		}
	}
	return d, nil
}

func equal(a, b Record) bool {
	return a.Type == b.Type && a.Name == b.Name && a.SHA256 == b.SHA256 && a.Size == b.Size &&
		len(a.Detail) == 0 && len(b.Detail) == 0
}

func (d Descriptor) validate() error {
	roles := Roles(d.Kind)
	if roles == nil {
		return fmt.Errorf("%w: unknown kind of image %q", ErrInvalid, d.Kind)
	}
	if len(d.Artifacts) > MaxArtifacts {
		return fmt.Errorf("%w: %d artifacts, more than %d", ErrInvalid, len(d.Artifacts), MaxArtifacts)
	}
	last := -1
	for _, a := range d.Artifacts {
		at := slices.Index(roles, a.Role)
		switch {
		case at < 0:
			return fmt.Errorf("%w: a %s image has no %q", ErrInvalid, d.Kind, a.Role)
		case at < last:
			return fmt.Errorf("%w: %s of a %s image is out of order", ErrInvalid, a.Role, d.Kind)
		case at == last && a.Role != RoleLayer:
			return fmt.Errorf("%w: a %s image has two artifacts %q", ErrInvalid, d.Kind, a.Role)
		case !isSHA256(a.SHA256):
			return fmt.Errorf("%w: sha256 %q of %s is not 64 lower-case hex digits", ErrInvalid, a.SHA256, a.Role)
		case a.Size < 0:
			return fmt.Errorf("%w: size %d of %s is negative", ErrInvalid, a.Size, a.Role)
		}
		last = at
	}
	return d.validateRequired()
}

// validateRequired refuses a descriptor that does not say what code will run.
func (d Descriptor) validateRequired() error {
	required := map[string][]string{
		KindLinux:     {RoleKernel},
		KindUKI:       {RoleUKI},
		KindContainer: {RoleKernel},
		KindDisk:      {RoleDisk, RoleVerityRoot},
	}[d.Kind]
	for _, a := range d.Artifacts {
		if slices.Contains(required, a.Role) {
			return nil
		}
	}
	return fmt.Errorf("%w: a %s image needs %q", ErrInvalid, d.Kind, required[0])
}
