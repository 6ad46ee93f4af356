package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/attest/agent/luks"
	"github.com/sealboot/sealboot/attest/seal"
)

// ErrMayNotFormat says that a volume is not formatted and must not be.
var ErrMayNotFormat = errors.New("volume may not be formatted")

// ErrTaken says that something else has the name of a volume.
var ErrTaken = errors.New("something else than an encrypted volume has this name; remove the disk that brings it")

// Outcome is what Unlock did.
type Outcome string

// Outcomes of Unlock.
const (
	Opened      Outcome = "opened"
	Formatted   Outcome = "formatted and opened"
	AlreadyOpen Outcome = "is open already"
)

// Runner runs a program with a secret on its standard input and an open file as descriptor 3 (nil for
// none).
type Runner func(ctx context.Context, secret []byte, file *os.File, name string, args ...string) error

// Volumes opens volumes.
type Volumes struct {
	Run    Runner // nil means Exec
	Mapper string // where opened volumes appear; "" means /dev/mapper
	Sys    string // "" means /sys
}

// Unlock opens the named volume on a block device with the key derived from the seal key. It formats
// the device only if it is blank and attestd said that no boot of this machine was acknowledged before.
func (v Volumes) Unlock(ctx context.Context, h *Handover, name, device string) (Outcome, error) {
	if v.Run == nil {
		v.Run = Exec
	}
	if v.Mapper == "" {
		v.Mapper = "/dev/mapper"
	}
	if v.Sys == "" {
		v.Sys = "/sys"
	}
	key, err := h.volumeKey(name)
	if err != nil {
		return "", fmt.Errorf("unlock volume %s: %w", name, err)
	}
	defer clear(key)
	if open, err := v.isOpen(name); err != nil {
		return "", fmt.Errorf("unlock volume %s: %w", name, err)
	} else if open {
		return AlreadyOpen, nil
	}
	done, err := v.unlock(ctx, h, key, name, device)
	if err != nil {
		return "", fmt.Errorf("unlock volume %s on %s: %w", name, device, err)
	}
	return done, nil
}

// isOpen tells whether cryptsetup has opened a volume by this name. Others make names in the same place: a logical
// volume "b" of a volume group "a" on any disk that is plugged in appears as "a-b", and must not pass for ours.
func (v Volumes) isOpen(name string) (bool, error) {
	path := filepath.Join(v.Mapper, name)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	id, err := os.ReadFile(filepath.Join(v.Sys, "dev/block", dev, "dm/uuid"))
	if err != nil {
		return false, fmt.Errorf("find out what %s is: %w", path, err)
	}
	if text := strings.TrimSpace(string(id)); !strings.HasPrefix(text, "CRYPT-LUKS2-") || !strings.HasSuffix(text, "-"+name) {
		return false, fmt.Errorf("%w: %s is %q", ErrTaken, path, text)
	}
	return true, nil
}

func (v Volumes) unlock(ctx context.Context, h *Handover, key []byte, name, device string) (Outcome, error) {
	disk, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer disk.Close()
	done := Opened
	header, err := luks.Detach(disk)
	if errors.Is(err, luks.ErrNotLUKS) {
		if err := mayFormat(disk, h.Result.FirstBoot); err != nil {
			return "", err
		}
		if err := v.format(ctx, key, name, device); err != nil {
			return "", err
		}
		done = Formatted
		header, err = luks.Detach(disk)
	}
	if err != nil {
		return "", err
	}
	return done, v.open(ctx, key, header, name, device)
}

func mayFormat(disk *os.File, firstBoot bool) error {
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	blank, err := luks.Blank(disk, size)
	switch {
	case err != nil:
		return err
	case !blank:
		return fmt.Errorf("%w: it holds something else; if that can go, overwrite its first 16 MiB and its last MiB with zeros", ErrMayNotFormat)
	case !firstBoot:
		return fmt.Errorf("%w: it is blank, but this machine was admitted before; if its disk was replaced, run on the server: "+
			"sealboot device allow --format", ErrMayNotFormat)
	}
	return nil
}

// format uses no slow key derivation: the key is random, so there is nothing to guess.
func (v Volumes) format(ctx context.Context, key []byte, name, device string) error {
	err := v.Run(ctx, key, nil, "cryptsetup", "luksFormat", "--type", "luks2", "--batch-mode",
		"--cipher", luks.Cipher, "--key-size", "512", "--hash", "sha256", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--label", "sealboot-"+name, "--key-file", "-", "--keyfile-size", fmt.Sprint(seal.KeySize), device)
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// open gives cryptsetup the header that was checked, in a file that no one else can change.
func (v Volumes) open(ctx context.Context, key, header []byte, name, device string) error {
	fd, err := unix.MemfdCreate("luks-header", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	file := os.NewFile(uintptr(fd), "luks-header")
	defer file.Close()
	if _, err := file.Write(header); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = v.Run(ctx, key, file, "cryptsetup", "open", "--type", "luks2", "--header", "/proc/self/fd/3",
		"--key-file", "-", "--keyfile-size", fmt.Sprint(seal.KeySize), device, name)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return nil
}

// Exec runs a program and returns what it printed on standard error with the error.
func Exec(ctx context.Context, secret []byte, file *os.File, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(secret)
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	var text strings.Builder
	cmd.Stderr = &text
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(text.String()))
	}
	return nil
}
