package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/source/volume"
)

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	sys := volume.System{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")}
	for name, text := range map[string]string{
		"dev/vda": "", "dev/vda1": "", "dev/nvme0n1": "", "dev/vdb": "",
		"sys/vda/serial":            "disk-1\n",
		"sys/vda/uevent":            "DEVTYPE=disk\n",
		"sys/vda1/partition":        "1\n",
		"sys/vda1/uevent":           "DEVTYPE=partition\nPARTNAME=os images\n",
		"sys/vda1/serial":           "disk-1\n",
		"sys/vdb/serial":            "twin\n",
		"sys/nvme0n1/device/serial": "twin   \n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, want string // want is the device, or in the error
		is         error
	}{
		{"/dev/vdb", "vdb", nil},
		{"SERIAL=disk-1", "vda", nil},
		{"PARTLABEL=os images", "vda1", nil},
		{"PARTLABEL=os", "", fs.ErrNotExist},
		{"SERIAL=disk", "", fs.ErrNotExist},
		{"/dev/vdc", "", fs.ErrNotExist},
		{"SERIAL=twin", "unique", nil},
	} {
		f, err := sys.OpenDisk(t.Context(), c.name)
		if err != nil {
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || c.is == nil && c.want != "unique" {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if filepath.Base(f.Name()) != c.want {
			t.Errorf("%s opened %s", c.name, f.Name())
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
