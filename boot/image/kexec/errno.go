package kexec

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a refusal of the kernel with what can be done about it.
type Error struct {
	Errno  unix.Errno
	Advice string
}

func (e *Error) Error() string { return fmt.Sprintf("%v: %s", e.Errno, e.Advice) }

// Unwrap returns the error number.
func (e *Error) Unwrap() error { return e.Errno }

// advice explains an error number of kexec_file_load. The kernel's meaning of
// each is in kernel/kexec_file.c and the architectures' image loaders.
func advice(err error, lockdown string) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	return &Error{errno, explain(errno, lockdown)}
}

func explain(errno unix.Errno, lockdown string) string {
	switch errno {
	case unix.ENOSYS:
		return "this kernel has no kexec_file_load; build the firmware's kernel with CONFIG_KEXEC_FILE"
	case unix.EPERM:
		if strings.Contains(lockdown, "[integrity]") || strings.Contains(lockdown, "[confidentiality]") {
			return "this kernel is locked down and accepts signed kernels only; sign the image's kernel for a key in its keyring, or build it without lockdown"
		}
		return "needs CAP_SYS_BOOT, and kexec_load_disabled must be 0"
	case unix.EBUSY:
		return "another kexec or a crash dump is under way"
	case unix.ENOEXEC:
		return "the file is no kernel of a format that this kernel loads"
	case unix.EINVAL:
		return "the kernel image is malformed or for another architecture, or the command line is longer than it accepts"
	case unix.EKEYREJECTED, unix.EBADMSG, unix.ENOKEY, unix.ENODATA:
		return "the kernel's signature is missing or not by a trusted key"
	case unix.EADDRNOTAVAIL, unix.ENOMEM:
		return "not enough free memory for kernel and initrd; use a smaller image or more RAM"
	case unix.ETXTBSY:
		return "the kernel or the initrd is still open for writing"
	case unix.EFBIG:
		return "the kernel or the initrd is larger than this kernel reads"
	}
	return "see dmesg for the kernel's reason"
}
