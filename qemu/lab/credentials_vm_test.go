//go:build vm

package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/board"
	"github.com/sealboot/sealboot/qemu"
)

// offering is a machine that offers the operating system a file and a setting of
// its own, as whoever holds it can: one in SMBIOS and one in fw_cfg.
func offering(t *testing.T, c qemu.Config) qemu.Config {
	t.Helper()
	setting := filepath.Join(t.TempDir(), "sysctl")
	if err := os.WriteFile(setting, []byte("kernel.domainname = planted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.SMBIOS = []string{"io.systemd.credential:tmpfiles.extra=f /run/planted 0600"}
	c.FWCfg = map[string]string{"opt/io.systemd.credentials/sysctl.extra": setting}
	return c
}

// TestCredentialsTaken is the other half of TestSite's first boot: without the
// switch that sites have on their command line, the same operating system on the
// same machine takes both.
func TestCredentialsTaken(t *testing.T) {
	l := machine(t)
	loader, config := l.loader, l.siteJSON
	t.Cleanup(func() { l.loader, l.siteJSON = loader, config })
	l.loader, l.siteJSON = l.unitPath("loader"), l.unitPath("site.json")
	text := strings.Replace(string(content(t, config)), "systemd.import_credentials=no", "systemd.import_credentials=yes", 1)
	if err := os.WriteFile(l.siteJSON, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	built := l.buildLoaderTo(t.Context(), l.siteJSON, l.loader)
	if err := errors.Join(built, l.trustLoader(t.Context())); err != nil {
		t.Fatal(err)
	}
	bootsImage(t, l, "open", probed(t, l))
	b := switchOn(t, l, offering(t, l.Machine()))
	wantUp(t, b)
	wantReleases(t, l, 1)
	for _, taken := range []string{"sysctl.extra", "tmpfiles.extra", "a file planted by SMBIOS", "a setting planted by fw_cfg"} {
		if !strings.Contains(b.Console, taken) {
			t.Errorf("the probe did not find %s: %q", taken, b.Demo())
		}
	}
}

// trustLoader makes the loader of this machine a good one of the site.
func (l *Lab) trustLoader(ctx context.Context) error {
	reference := l.unitPath("loader.json")
	_, predicted := l.sealboot(ctx, "predict", "loader", "--uki", filepath.Join(l.loader, board.UKIFile), "--site", l.siteJSON,
		"--name", strings.ToLower(l.unit), "-o", reference)
	_, added := l.sealboot(ctx, "policy", "add", "--dir", l.site, reference)
	return errors.Join(predicted, added)
}
