package site

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/sealboot/sealboot/attest/seal"
	"github.com/sealboot/sealboot/measure/atomicfile"
)

// The operator's own secrets for the OS lie in secrets/site/NAME, for every device, and secrets/ID/NAME, for one; the
// one for a device goes before the site's of the same name. Each file is wrapped like the seal key, for its very place.
const (
	dirSecrets = "secrets"
	allDevices = "site"
)

// MaxSecrets bounds what one device gets, names included, in bytes: it has to fit into one message with the rest.
const MaxSecrets = 2048

var (
	// ErrSecret says that an operator's secret cannot be stored as it is.
	ErrSecret = errors.New("secret cannot be stored")

	validSecret = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	validDevice = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// SecretName names a stored secret.
type SecretName struct {
	Device string // ID; "" for all devices
	Name   string
}

func (n SecretName) check() error {
	if !validSecret.MatchString(n.Name) {
		return fmt.Errorf("%w: name %q, want 1 to 64 of a-z 0-9 . _ - that begin with a letter or digit", ErrSecret, n.Name)
	}
	if n.Device != "" && !validDevice.MatchString(n.Device) {
		return fmt.Errorf("%w: device %q is not an ID", ErrSecret, n.Device)
	}
	return nil
}

func (n SecretName) place() string {
	if n.Device == "" {
		return filepath.Join(dirSecrets, allDevices, n.Name)
	}
	return filepath.Join(dirSecrets, n.Device, n.Name)
}

// context binds a wrapped secret to its place, so that a file that was moved does not open.
func (s *Site) secretContext(n SecretName) string {
	return "secret/" + s.Name + "/" + n.Device + "/" + n.Name
}

// SetSecret stores a secret, encrypted, in place of one of the same name. What would make any device's secrets larger
// than [MaxSecrets] is refused here, not when a device waits for them.
func (s *Site) SetSecret(n SecretName, value []byte) error {
	if err := n.check(); err != nil {
		return err
	}
	if len(value) == 0 {
		return fmt.Errorf("%w: %s is empty", ErrSecret, n.Name)
	}
	if err := s.checkRoom(n, len(value)); err != nil {
		return err
	}
	wrapped, err := s.kek.Wrap(value, s.secretContext(n))
	if err != nil {
		return fmt.Errorf("store secret %s: %w", n.Name, err)
	}
	path := s.path(n.place())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store secret %s: %w", n.Name, err)
	}
	if err := atomicfile.Write(path, wrapped, 0o600); err != nil {
		return fmt.Errorf("store secret %s: %w", n.Name, err)
	}
	return nil
}

// RemoveSecret forgets a secret. Devices that have it keep it until they boot again.
func (s *Site) RemoveSecret(n SecretName) error {
	if err := n.check(); err != nil {
		return err
	}
	if err := os.Remove(s.path(n.place())); err != nil {
		return fmt.Errorf("remove secret %s: %w", n.Name, err)
	}
	return nil
}

// SecretNames lists what is stored.
func (s *Site) SecretNames() ([]SecretName, error) {
	places, err := readNames(s.path(dirSecrets))
	if err != nil {
		return nil, err
	}
	var out []SecretName
	for _, place := range places {
		device := place
		if place == allDevices {
			device = ""
		}
		names, err := s.secretsOf(device)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

func (s *Site) secretsOf(device string) ([]SecretName, error) {
	place := device
	if device == "" {
		place = allDevices
	}
	names, err := readNames(s.path(filepath.Join(dirSecrets, place)))
	if err != nil {
		return nil, err
	}
	var out []SecretName
	for _, name := range names {
		out = append(out, SecretName{device, name})
	}
	return out, nil
}

// readNames lists a directory, which need not be there.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	var out []string
	for _, e := range entries {
		if validSecret.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Secrets are what one device gets. The caller wipes them.
func (s *Site) Secrets(device string) (map[string][]byte, error) {
	all, err := s.secretsOf("")
	if err != nil {
		return nil, err
	}
	own, err := s.secretsOf(device)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, n := range append(all, own...) {
		wrapped, err := seal.ReadFile(s.path(n.place()))
		if err != nil {
			return nil, err
		}
		clear(out[n.Name])
		if out[n.Name], err = s.kek.Unwrap(wrapped, s.secretContext(n)); err != nil {
			return nil, fmt.Errorf("secret %s: %w", n.place(), err)
		}
	}
	return out, nil
}

// checkRoom tells whether every device's secrets still fit when this one has size bytes.
func (s *Site) checkRoom(n SecretName, size int) error {
	stored, err := s.SecretNames()
	if err != nil {
		return err
	}
	total := map[string]int{} // by device; "" is what all get
	count := func(n SecretName, size int) { total[n.Device] += len(n.Name) + size }
	count(n, size)
	for _, o := range stored {
		if o == n {
			continue
		}
		fi, err := os.Stat(s.path(o.place()))
		if err != nil {
			return fmt.Errorf("list secrets: %w", err)
		}
		count(o, int(fi.Size())) // a little more than the secret itself
	}
	for device, own := range total {
		if device != "" {
			own += total[""]
		}
		if own > MaxSecrets {
			return fmt.Errorf("%w: a device would get %d bytes of secrets, want at most %d; release a key and fetch the rest with it",
				ErrSecret, own, MaxSecrets)
		}
	}
	return nil
}
