package loader

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"

	"github.com/sealboot/sealboot/boot/boottest/tuftest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/machine/console"
	ocipublish "github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// diskLayout publishes a disk image to a layout as "sealboot publish" does.
func diskLayout(t *testing.T, raw []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	disk, kernel := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "vmlinuz")
	if err := errors.Join(os.WriteFile(disk, raw, 0o600), os.WriteFile(kernel, []byte(kernelText), 0o600)); err != nil {
		t.Fatal(err)
	}
	pushTo(t, "oci:"+filepath.Join(dir, "os")+":v1", ocipublish.Artifact{Disk: disk, Kernel: kernel})
	return dir
}

// pushTo publishes an image and returns its digest.
func pushTo(t *testing.T, location string, a ocipublish.Artifact) string {
	t.Helper()
	loc, err := ocipublish.ParseLocation(location)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := loc.Target(t.Context(), oci.Connection{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := a.Push(t.Context(), dst)
	if err := errors.Join(err, dst.Tag(t.Context(), d, "v1"), dst.Finish(), dst.Close()); err != nil {
		t.Fatal(err)
	}
	return d.Digest.String()
}

// onDisk boots the layout's disk image as far as the measurement.
func onDisk(t *testing.T, layout, dev, disk string) error {
	t.Helper()
	return fetchTo(t, dev, layout, config.Source{Type: config.SourceMedia, Ref: "v1", Disk: disk})
}

// fetchTo boots what a source has, as far as the measurement, on a machine with
// the disks in dev.
func fetchTo(t *testing.T, dev, layout string, src config.Source) error {
	t.Helper()
	site := &config.Site{Name: "s", Sources: []config.Source{src}}
	m, err := New(Options{Site: site, Console: console.New(console.Options{Out: t.Output()}), Layout: layout, NoTPM: true, NoNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.volumes.Dev = dev
	s, err := m.source(&site.Sources[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Fetch(t.Context())
	if err != nil {
		return err
	}
	return c.Image.Close()
}

func TestDiskImage(t *testing.T) {
	raw := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	layout := diskLayout(t, raw)
	dev := t.TempDir()
	file := func(name string, size int64) string {
		path := filepath.Join(dev, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := file("vda", 2<<20)
	dryRun(t, layout, dev, path, raw)
	file("small", 1<<19)

	t.Run("file", func(t *testing.T) { bootsFromDisk(t, layout, dev, path, raw) })
	t.Run("loop device", func(t *testing.T) {
		out, err := exec.Command("losetup", "-f", "--show", file("backing", 2<<20)).Output()
		if err != nil && os.Getenv("SEALBOOT_TEST_ALL") != "1" {
			t.Skipf("losetup: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		loop := strings.TrimSpace(string(out))
		defer func() {
			if err := exec.Command("losetup", "-d", loop).Run(); err != nil {
				t.Error(err)
			}
		}()
		bootsFromDisk(t, layout, "/dev", loop, raw)
	})
	for disk, want := range map[string]string{"/dev/small": "needs 1 MiB", "/dev/none": "no such file", "": "no disk"} {
		if err := onDisk(t, layout, dev, disk); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("disk %q: %v", disk, err)
		}
	}
}

// bootsFromDisk boots twice, then with a disk that was changed.
func bootsFromDisk(t *testing.T, layout, dev, path string, raw []byte) {
	name := "/dev/" + filepath.Base(path)
	for _, boot := range []string{"first", "second", "changed"} {
		if boot == "changed" {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte("evil"), 4096)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if err := onDisk(t, layout, dev, name); err != nil {
			t.Fatalf("%s: %v", boot, err)
		}
		got, err := os.ReadFile(path)
		if err != nil || len(got) < len(raw) || !bytes.Equal(got[:len(raw)], raw) {
			t.Errorf("%s: the disk holds something else (%v)", boot, err)
		}
	}
}

// dryRun finds what a boot would measure, and leaves the disk alone.
func dryRun(t *testing.T, layout, dev, path string, raw []byte) {
	t.Helper()
	site := &config.Site{Name: "s", Sources: []config.Source{{Type: config.SourceMedia, Ref: "v1", Disk: "/dev/" + filepath.Base(path)}}}
	m, err := New(Options{Site: site, Console: console.New(console.Options{Out: t.Output()}), Layout: layout, NoNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.volumes.Dev = dev
	p, err := m.DryRun(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	if a := p.Artifacts[0]; a.Role != "disk" || a.SHA256 != hex.EncodeToString(sum[:]) || a.Size != int64(len(raw)) {
		t.Errorf("a dry run measures %+v", a)
	}
	got, err := os.ReadFile(path)
	if err != nil || bytes.ContainsFunc(got, func(r rune) bool { return r != 0 }) {
		t.Errorf("a dry run wrote to the disk (%v)", err)
	}
}

// TestDiskByTUF has a TUF repository vouch for a disk image, which comes with it or
// from a registry.
func TestDiskByTUF(t *testing.T) {
	raw := bytes.Repeat([]byte("fedcba9876543210"), 64<<10)
	layout := diskLayout(t, raw)
	registry := httptest.NewServer(ociserver.New(ocimem.New(), nil))
	defer registry.Close()
	name := strings.TrimPrefix(registry.URL, "http://") + "/os"
	digest := pushTo(t, name+":v1", ocipublish.Artifact{Disk: filepath.Join(layout, "disk.raw"), Kernel: filepath.Join(layout, "vmlinuz")})
	for _, tt := range []struct {
		kind, custom string
		content      []byte
	}{
		{"bundle", "", directoryTar(t, filepath.Join(layout, "os"))},
		{"oci", fmt.Sprintf(`,"oci":{"repository":%q,"digest":%q}`, name, digest), []byte("-")},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			r := tuftest.New(t)
			r.AddArtifact("targets", "os", tt.content)
			custom := json.RawMessage(fmt.Sprintf(`{"sealboot":{"kind":%q,"version":1,"architecture":%q%s}}`, tt.kind, runtime.GOARCH, tt.custom))
			r.Targets().Targets["os"].Custom = &custom
			r.Publish("targets", "snapshot", "timestamp")
			dev := t.TempDir()
			path := filepath.Join(dev, "vda")
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 2<<20)); err != nil {
				t.Fatal(err)
			}
			src := config.Source{Type: config.SourceTUF, Root: r.Published["root"][0], MetadataURL: r.URL + "/metadata", Target: "os", PlainHTTP: true}
			if err := fetchTo(t, dev, "", src); !errors.Is(err, osimage.ErrUnsupported) || !strings.Contains(err.Error(), "no disk") {
				t.Errorf("without a disk: %v", err)
			}
			src.Disk = "/dev/vda"
			if err := fetchTo(t, dev, "", src); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(got, raw) {
				t.Errorf("the disk does not hold the image (%v)", err)
			}
		})
	}
}
