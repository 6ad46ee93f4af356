//go:build vm

package lab

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/qemu"
)

// offering is a new machine that offers the operating system a file, a setting and
// a host name of its own, as anyone who holds it can: in SMBIOS, in fw_cfg and in an
// EFI variable.
func offering(t *testing.T, c qemu.Config) qemu.Config {
	t.Helper()
	setting := filepath.Join(t.TempDir(), "sysctl")
	if err := os.WriteFile(setting, []byte("kernel.domainname = planted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.SMBIOS = []string{"io.systemd.credential:tmpfiles.extra=f /run/planted 0600"}
	c.FWCfg = map[string]string{"opt/io.systemd.credentials/sysctl.extra": setting}
	plantOptions(t, c.Dir, "systemd.hostname=planted")
	return c
}

// plantOptions gives a new machine's firmware the variable SystemdOptions, in
// the format of EDK II (MdeModulePkg, VariableFormat.h): systemd takes it for
// more of the kernel's command line, and no firmware measures it.
func plantOptions(t *testing.T, dir, options string) {
	t.Helper()
	const (
		volumeHeader, storeHeader = 72, 28
		added                     = 0x3f
		attributes                = 7 // kept, and visible to the OS
	)
	vendor := []byte{0x4b, 0x64, 0xf2, 0x8c, 0x0b, 0x4b, 0x8f, 0x42, 0x93, 0x87, 0x6d, 0x87, 0x60, 0x50, 0xdc, 0x67}
	wide := func(s string) (b []byte) {
		for _, c := range append([]byte(s), 0) {
			b = append(b, c, 0)
		}
		return b
	}
	name, data, le := wide("SystemdOptions"), wide(options), binary.LittleEndian
	v := []byte{0xaa, 0x55, added, 0}
	v = le.AppendUint32(v, attributes)
	v = append(v, make([]byte, 8+16+4)...) // counter, time and key of signed variables
	v = le.AppendUint32(le.AppendUint32(v, uint32(len(name))), uint32(len(data)))
	v = append(append(append(v, vendor...), name...), data...)

	flash := content(t, "/usr/share/OVMF/OVMF_VARS_4M.fd")
	copy(flash[volumeHeader+storeHeader:], v)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "firmware-vars.fd"), flash, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCredentialsTaken is the other half of TestSite's first boot: without the
// switches that sites have on their command line, the same operating system on the
// same machine takes all of it.
func TestCredentialsTaken(t *testing.T) {
	l := machine(t)
	loader, config := l.loader, l.siteJSON
	t.Cleanup(func() { l.loader, l.siteJSON = loader, config })
	l.loader, l.siteJSON = l.unitPath("loader"), l.unitPath("site.json")
	text := strings.Replace(string(content(t, config)), "systemd.import_credentials=no efi=noruntime", "systemd.import_credentials=yes", 1)
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
	for _, taken := range []string{"sysctl.extra", "tmpfiles.extra", "a file planted by SMBIOS", "a setting planted by fw_cfg",
		"a host name planted by an EFI variable", "PCR 11 was"} { // by systemd-pcrphase, which looks at another
		if !strings.Contains(b.Console, taken) {
			t.Errorf("the probe did not find %s: %q", taken, b.Demo())
		}
	}
}
