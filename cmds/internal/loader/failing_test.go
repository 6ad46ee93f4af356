package loader

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/machine/console"
	"github.com/sealboot/sealboot/boot/source/volume"
)

// TestFailingVolumes has a cache volume that cannot be written, in every way that a real one cannot, whatever it is used for.
func TestFailingVolumes(t *testing.T) {
	for name, use := range map[string]func(t *testing.T) volumeUse{
		"downloads":  downloadsUse,
		"disk image": diskUse,
		"metadata":   metadataUse,
	} {
		t.Run(name, func(t *testing.T) {
			u := use(t)
			for state, c := range map[string]struct {
				image func(t testing.TB, label string) volumetest.Image
				make  func(t *testing.T)
			}{
				"full": {volumetest.Ext4, func(t *testing.T) {
					for _, dir := range []string{"blobs", "tuf"} {
						if err := os.Mkdir(filepath.Join(u.directory, dir), 0o700); err != nil {
							t.Fatal(err)
						}
					}
					if err := fill(filepath.Join(u.directory, "photo")); err != nil {
						t.Fatal(err)
					}
				}},
				"read-only":            {volumetest.Ext4, func(t *testing.T) { readOnly(t, u.directory) }},
				"read-only and filled": {volumetest.Ext4, func(t *testing.T) { u.boots(t); readOnly(t, u.directory) }},
				"read-only and wrong": {volumetest.Ext4, func(t *testing.T) {
					u.boots(t)
					spoil(t, u.directory)
					readOnly(t, u.directory)
				}},
				"writes fail": {volumetest.Failing, func(*testing.T) {}},
			} {
				t.Run(state, func(t *testing.T) {
					c.image(t, volume.Cache).Mount(t, u.directory)
					c.make(t)
					u.boots(t)
					u.boots(t)
				})
			}
		})
	}
}

func readOnly(t *testing.T, dir string) {
	t.Helper()
	err := error(unix.EBUSY)
	for end := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		// The kernel may not be done yet with files that were closed.
		if err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spoil changes the first byte of every file.
func spoil(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{0xff}, 0)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostileHostConfig puts everything that a file can be in the place of the host config: the machine then boots as if
// it had none, and says so.
func TestHostileHostConfig(t *testing.T) {
	good := func(path string) error { return os.WriteFile(path, []byte(`{"proxy":"http://proxy:3128"}`), 0o600) }
	absent := func(string) error { return nil }
	states := map[string]func(string) error{"good": good, "absent": absent}
	for what, with := range hostile {
		states[what] = with
	}
	for what, with := range states {
		t.Run(what, func(t *testing.T) {
			disk := volumetest.Ext4(t, config.VolumeLabel).Edit(t, func(dir string) {
				if err := with(filepath.Join(dir, config.VolumeFile)); err != nil {
					t.Fatal(err)
				}
			})
			wantHost(t, what == "good", disk)
		})
	}
	t.Run("a volume that cannot be mounted", func(t *testing.T) {
		wantHost(t, false, volumetest.Ext4(t, config.VolumeLabel).Damage(t))
	})
}

// wantHost looks for the host config on a machine with one disk.
func wantHost(t *testing.T, found bool, disk volumetest.Image) {
	t.Helper()
	var out bytes.Buffer
	m, err := New(Options{Site: new(config.Site), Console: console.New(console.Options{Out: &out})})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.volumes = volumetest.Machine(t, disk)
	raw, _, err := m.hostConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if host := m.parseHost(raw); (host != nil) != found {
		t.Errorf("host config %+v", host)
	}
	if warned := strings.Contains(out.String(), "warning"); warned == found {
		t.Errorf("the console says:\n%s", &out)
	}
}

// TestVolumeThatStays boots from a medium that cannot be unmounted any more.
func TestVolumeThatStays(t *testing.T) {
	w, _ := bareWorld(t)
	dir := w.copyToLayout()
	site := &config.Site{Sources: []config.Source{{Type: config.SourceMedia, Ref: w.digest()}}}
	var out bytes.Buffer
	m, err := New(Options{Site: site, Console: console.New(console.Options{Out: &out}), NoTPM: true, NoNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.volumes = volumetest.Machine(t)
	s := &stick{m: m, src: &site.Sources[0], open: func(context.Context) (string, func() error, error) {
		return dir, func() error { return unix.EBUSY }, nil
	}}
	c, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Image.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), unix.EBUSY.Error()) {
		t.Errorf("the console says:\n%s", &out)
	}
}
