package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Loader is the reference of one loader: a UKI, or a kernel and initramfs that firmware starts otherwise.
type Loader struct {
	Header
	// PCR4 are the digests of what firmware and boot stub start, in order: the UKI, then the kernel inside of it.
	PCR4 []Digests `json:"pcr4"`
	// PCR11 are the digests that the boot stub measures: names and contents of the UKI's sections, in order. Without
	// a stub that measures, there are none.
	PCR11      []Digests `json:"pcr11,omitempty"`
	SiteConfig string    `json:"siteConfig"` // hex SHA-256 of the site config in its initramfs
	ReleaseKey string    `json:"releaseKey"` // hex of the release key's TPM Name, see [keys.ReleaseKeyRecord]
}

func (l *Loader) check() error {
	if err := l.Header.check(KindLoader); err != nil {
		return err
	}
	if len(l.PCR4) == 0 {
		return errors.New("pcr4: a loader that is not measured cannot be told from another")
	}
	for _, d := range slices.Concat(l.PCR4, l.PCR11) {
		if err := d.check(); err != nil {
			return err
		}
	}
	if err := checkDigest("sha256", l.SiteConfig); err != nil {
		return fmt.Errorf("siteConfig: %w", err)
	}
	if name, ok := strings.CutPrefix(l.ReleaseKey, "000b"); !ok || checkDigest("sha256", name) != nil {
		return fmt.Errorf("releaseKey %q is not a TPM Name (000b and a SHA-256 digest) in lower-case hex", l.ReleaseKey)
	}
	return nil
}
