package osimage

import (
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Artifact and media types of images that are no container images. A layer's
// media type says its role; "+gzip", "+zstd" or "+xz" may follow that of a disk.
const (
	ArtifactLinux = "application/vnd.sealboot.linux.v1"
	ArtifactUKI   = "application/vnd.sealboot.uki.v1"
	ArtifactDisk  = "application/vnd.sealboot.disk.v1"

	MediaTypeKernel  = "application/vnd.sealboot.kernel.v1"
	MediaTypeInitrd  = "application/vnd.sealboot.initrd.v1"
	MediaTypeDTB     = "application/vnd.sealboot.dtb.v1"
	MediaTypeCmdline = "application/vnd.sealboot.cmdline.v1"
	MediaTypeUKI     = "application/vnd.sealboot.uki.v1.efi"
	MediaTypeRaw     = "application/vnd.sealboot.disk.v1.raw"
	MediaTypeQcow2   = "application/vnd.sealboot.disk.v1.qcow2"
)

// Media types and annotations of others that are read too.
const (
	pulpFile    = "application/x-netboot-file" // pulp/netboot-oci-specs; "+zstd" may follow
	ironcore    = "application/vnd.ironcore.image."
	onmetal     = "application/vnd.onmetal.image." // IronCore's former name
	eciKernel   = "application/vnd.lfedge.eci.kernel.layer.v1"
	eciInitrd   = "application/vnd.lfedge.eci.initrd.layer.v1"
	eciRole     = "org.lfedge.eci.role"
	octetStream = "application/octet-stream"
)

// role is what a layer is for.
type role int

const (
	roleNone role = iota
	roleKernel
	roleInitrd
	roleDTB
	roleCmdline
	roleUKI
	roleDisk
)

func (r role) String() string {
	return [...]string{"nothing", "kernel", "initrd", "dtb", "cmdline", "uki", "disk"}[r]
}

// NeedsDisk reports whether an image is written to a disk. A manifest that is
// malformed needs none.
func NeedsDisk(manifest []byte) bool {
	m, err := parseManifest(manifest)
	return err == nil && !isContainer(m) && slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return roleOf(l) == roleDisk })
}

// roleOf tells a layer's role by its media type and annotations.
func roleOf(d ocispec.Descriptor) role {
	base, _, _ := strings.Cut(d.MediaType, "+")
	switch base {
	case MediaTypeKernel, eciKernel:
		return roleKernel
	case MediaTypeInitrd, eciInitrd:
		return roleInitrd
	case MediaTypeDTB:
		return roleDTB
	case MediaTypeCmdline:
		return roleCmdline
	case MediaTypeUKI:
		return roleUKI
	case MediaTypeRaw, MediaTypeQcow2:
		return roleDisk
	case pulpFile:
		return roleOfTitle(d.Annotations[ocispec.AnnotationTitle])
	}
	for _, prefix := range []string{ironcore, onmetal} {
		if rest, ok := strings.CutPrefix(base, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			return map[string]role{"vmlinuz": roleKernel, "kernel": roleKernel, "initramfs": roleInitrd, "uki": roleUKI}[name]
		}
	}
	if base == octetStream {
		return map[string]role{"kernel": roleKernel, "initrd": roleInitrd}[d.Annotations[eciRole]]
	}
	return roleNone
}

// roleOfTitle tells a file of pulp/netboot by its name.
func roleOfTitle(title string) role {
	name := path.Base(title)
	switch {
	case strings.HasPrefix(name, "vmlinuz"), name == "linux", name == "kernel":
		return roleKernel
	case strings.HasPrefix(name, "initrd"), strings.HasPrefix(name, "initramfs"):
		return roleInitrd
	}
	return roleNone
}
