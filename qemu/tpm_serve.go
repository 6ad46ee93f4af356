package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sealboot/sealboot/qemu/child"
)

// FirmwareCode is the path of the platform firmware that machines run.
func FirmwareCode() string { return ovmf.code }

// ServeTPM powers the TPM of a machine that is switched off, as a provisioning
// station does with a board on its bench, and serves it on a Unix socket. Stop
// switches it off again; it must be called before the machine is started.
func ServeTPM(ctx context.Context, dir string) (socket string, stop func(), err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, fmt.Errorf("qemu: TPM directory: %w", err)
	}
	run, err := os.MkdirTemp("", "sealboot-tpm-") // socket paths are short
	if err != nil {
		return "", nil, fmt.Errorf("qemu: TPM socket: %w", err)
	}
	socket = filepath.Join(run, "tpm")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--flags", "not-need-init,startup-clear", "--log", "level=1,file="+filepath.Join(dir, "swtpm.log"))
	p, err := child.Start(cmd)
	if err != nil {
		os.RemoveAll(run)
		return "", nil, fmt.Errorf("qemu: TPM (package swtpm): %w", err)
	}
	stop = func() {
		p.Stop(2 * time.Second)
		os.RemoveAll(run)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(socket); err == nil {
			return socket, stop, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			stop()
			return "", nil, fmt.Errorf("qemu: TPM socket: %w", err)
		}
		select {
		case <-p.Done():
			stop()
			return "", nil, fmt.Errorf("qemu: the TPM in %s ended at once: %w", dir, p.Err())
		case <-ctx.Done():
			stop()
			return "", nil, fmt.Errorf("%w waiting for the TPM in %s", ErrDeadline, dir)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
