// Package agent is the OS side of an attested boot: it reads what the loader handed over, opens the
// volumes whose keys come from the seal key, and keeps the device's agent certificate fresh.
//
// Everything it needs is in one directory, by default [Dir], which lives in memory and belongs to root.
// Keys reach cryptsetup through a pipe: never a command line, never a disk.
package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/attest/ca"
	"github.com/sealboot/sealboot/attest/result"
	"github.com/sealboot/sealboot/attest/seal"
)

// Dir is where the OS keeps the loader's handover.
const Dir = "/run/sealboot"

// Names of the handover's files.
const (
	FileEventLog    = "eventlog.cel"
	FileFirmwareLog = "binary_bios_measurements"
	FileResult      = "attestation.json"
	FileSealKey     = "seal.key"
	FileCertificate = "agent.crt"
	FileApproval    = "agent.approval"
	FileSiteCA      = "site-ca.crt"
)

// ErrNotAttested says that this boot was not admitted: there is no handover, or no release in it.
var ErrNotAttested = errors.New("this boot holds no release")

// maxFile bounds each file read, in bytes; event logs are the largest.
const maxFile = 4 << 20

// Handover is what an admitted boot was given, without its secrets.
type Handover struct {
	Dir         string
	Result      result.Result
	Identity    ca.Identity
	Certificate *x509.Certificate
	SiteCA      *x509.CertPool
	Uptime      func() time.Duration // since attestd answered; nil means since the kernel started

	system func() time.Time // nil means time.Now
	ahead  atomic.Bool      // the system's time does not count
}

// Open reads the handover in dir ([ErrNotAttested] when there is none).
func Open(dir string) (*Handover, error) {
	h := &Handover{Dir: dir}
	text, err := h.read(FileResult)
	if err != nil {
		return nil, err
	}
	if h.Result, err = result.Parse(text); err != nil {
		return nil, err
	}
	if text, err = h.read(FileCertificate); err != nil {
		return nil, err
	}
	if h.Certificate, h.Identity, err = ca.ParseAgentPEM(text); err != nil {
		return nil, err
	}
	if text, err = h.read(FileSiteCA); err != nil {
		return nil, err
	}
	h.SiteCA = x509.NewCertPool()
	if !h.SiteCA.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, FileSiteCA))
	}
	if h.Identity.Device != h.Result.Device || h.Identity.Site != h.Result.Issuer {
		return nil, fmt.Errorf("%s and %s are of different devices", FileCertificate, FileResult)
	}
	return h, nil
}

// Now is the system's time, or the time that attestd gave at this boot and what has passed since if that is later. A
// machine without a battery for its clock begins years ago, and may never meet another clock than attestd's. A clock
// that is ahead shows in what it makes of attestd's certificate; see doubt.
func (h *Handover) Now() time.Time {
	system, uptime := h.system, h.Uptime
	if system == nil {
		system = time.Now
	}
	if uptime == nil {
		uptime = sinceKernelStart
	}
	now := system()
	if boot := time.Unix(h.Result.IssuedAt, 0).Add(uptime()); boot.After(now) || h.ahead.Load() {
		return boot
	}
	return now
}

// doubt changes from the system's time to that of the release, or back, and tells so, if err is that attestd's
// certificate is not valid now: a thief or another system may have set the machine's clock ahead. Back, because
// attestd's own clock may have been wrong when it gave the time.
func (h *Handover) doubt(err error) bool {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		return false
	}
	h.ahead.Store(!h.ahead.Load())
	return true
}

// sinceKernelStart is a little less than the time since attestd answered: then the loader had still to load the kernel.
func sinceKernelStart() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// Has tells whether the handover holds a file.
func (h *Handover) Has(name string) bool {
	_, err := os.Stat(filepath.Join(h.Dir, name))
	return err == nil
}

func (h *Handover) read(name string) ([]byte, error) { return ReadFile(h.Dir, name) }

// ReadFile reads one file of a handover.
func ReadFile(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing; attestd's status page tells why the loader got none", ErrNotAttested, filepath.Join(dir, name))
	}
	if err != nil {
		return nil, fmt.Errorf("read handover: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read handover: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read handover: %s has more than %d bytes", f.Name(), maxFile)
	}
	return b, nil
}

// volumeKey derives a volume's key and forgets the seal key.
func (h *Handover) volumeKey(name string) ([]byte, error) {
	sealKey, err := h.read(FileSealKey)
	if err != nil {
		return nil, err
	}
	defer clear(sealKey)
	return seal.VolumeKey(sealKey, h.Result.Device, name)
}
