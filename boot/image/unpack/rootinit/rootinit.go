// Package rootinit holds the program that becomes the first process of an
// operating system whose root is in RAM.
//
// The kernel unpacks an initramfs into its "rootfs", the one mount that has no
// parent. pivot_root(2) refuses to leave such a root, so no container runtime
// could start anything in the booted system. The program therefore binds the
// root to a new mount, moves that mount over the old root and changes into it:
// the files are the same, nothing is copied, and the root is a mount like any
// other. It then removes itself, so that the tree holds the image's content
// alone, and executes the image's init with its arguments and environment: the
// first that can be executed of /init, /sbin/init, /etc/init, /bin/init and
// /usr/lib/systemd/systemd.
//
// The archive that carries the program must provide [Path] (the program
// itself), [NewRoot] (an empty directory) and, if the image has a file at
// [Path], that file at [OwnInit]; the program renames it back.
//
// When a step fails, the program says which and the error number on the
// console and exits, so that the kernel panics; panic= on the command line
// turns that into a reset.
//
// The bytes are assembled from init_amd64.asm and init_arm64.asm; a test assembles
// them again and compares.
package rootinit

import (
	_ "embed"
	"fmt"
)

// Paths in the archive, without the leading slash.
const (
	Path    = "init"
	OwnInit = ".extra/sealboot/init"
	NewRoot = ".extra/sealboot/root"
)

//go:embed init_amd64
var amd64 string

//go:embed init_arm64
var arm64 string

// Program returns the static ELF program for a GOARCH value.
func Program(arch string) (string, error) {
	switch arch {
	case "amd64":
		return amd64, nil
	case "arm64":
		return arm64, nil
	}
	return "", fmt.Errorf("no first process for root in RAM on %q, only for amd64 and arm64", arch)
}
