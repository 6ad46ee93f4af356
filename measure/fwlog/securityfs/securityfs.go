// Package securityfs reads the firmware's event log of the machine that it runs on.
// It is apart from fwlog because attestd judges such logs, too, and what judges
// must have no way to a file.
package securityfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sealboot/sealboot/measure/fwlog"
)

// path is where Linux shows the log, if securityfs is mounted.
const path = "/sys/kernel/security/tpm0/binary_bios_measurements"

// Read returns the log of the running machine, as it is.
func Read(ctx context.Context) ([]byte, error) { return readFrom(ctx, path) }

// readFrom reads the file to its end, since securityfs does not tell its size.
func readFrom(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read firmware event log: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w (is securityfs mounted, and a TPM found by firmware and kernel?)", fwlog.ErrNoLog, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read firmware event log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fwlog.MaxSize+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read firmware event log: %w", err)
	case len(b) > fwlog.MaxSize:
		return nil, fmt.Errorf("read firmware event log: it is longer than %d bytes", fwlog.MaxSize)
	case len(b) == 0:
		return nil, fmt.Errorf("%w: %s is empty", fwlog.ErrNoLog, path)
	}
	return b, nil
}
