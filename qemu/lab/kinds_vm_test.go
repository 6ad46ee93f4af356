//go:build vm

package lab

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/wire"
	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/uki"
	"github.com/sealboot/sealboot/measure/event"
	"github.com/sealboot/sealboot/qemu"
)

// TestImageKinds boots what is no container image with a kernel in it: UKIs, and
// a disk. The operating system is minios; the kernel is Debian's.
func TestImageKinds(t *testing.T) {
	l := machine(t)
	t.Cleanup(func() {
		if err := l.push(context.Background(), l.facts.layout); err != nil {
			t.Error(err)
		}
	})
	p := miniParts(t, l)
	withImageKey(t, l, &p)
	t.Run("UKI", func(t *testing.T) { bootsUKI(t, l, p) })
	t.Run("UKI in a container image", func(t *testing.T) { bootsUKIInContainer(t, l, p) })
	t.Run("disk", func(t *testing.T) { bootsDisk(t, l, p) })
}

// parts are the files that the images are made of.
type parts struct {
	dir            string
	kernel, initrd string // paths
	program        []byte
	key            string // path of the private key that signs images
}

// withImageKey gives the test's machine a loader that may write to a disk, and
// boots only images that are signed or that TUF names.
func withImageKey(t *testing.T, l *Lab, p *parts) {
	t.Helper()
	ctx := t.Context()
	loader, site, from := l.loader, l.siteJSON, l.o.Boot
	t.Cleanup(func() {
		l.loader, l.siteJSON, l.o.Boot, l.imageKey = loader, site, from, nil
		l.dropTUF()
	})
	l.o.Boot = []BootSource{FromRegistry, FromTUF}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if l.imageKey, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	p.key = filepath.Join(p.dir, "image.key")
	if err := os.WriteFile(p.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	l.loader, l.siteJSON = l.unitPath("loader"), l.unitPath("site.json")
	if err := l.buildLoader(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.trustLoader(ctx); err != nil {
		t.Fatal(err)
	}
}

// modules are those that minios needs to find its disk.
var modules = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
	"dm-mod", "dm-bufio", "reed_solomon", "dm-verity"}

// miniParts takes kernel and modules out of the lab's operating system.
func miniParts(t *testing.T, l *Lab) parts {
	t.Helper()
	p := parts{dir: t.TempDir(), program: program(t, l, "minios")}
	p.kernel, p.initrd = filepath.Join(p.dir, "vmlinuz"), filepath.Join(p.dir, "initrd")
	image, err := l.image()
	if err != nil {
		t.Fatal(err)
	}
	in := map[string][]byte{"init": p.program}
	root := mutate.Extract(image)
	defer root.Close()
	for files := tar.NewReader(root); ; {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		base, isModule := strings.CutSuffix(path.Base(h.Name), ".ko")
		switch {
		case path.Base(h.Name) == "vmlinuz" && strings.Contains(h.Name, "lib/modules/"):
			create(t, p.kernel, func(w io.Writer) error { _, err := io.Copy(w, files); return err })
		case isModule && slices.Contains(modules, base):
			if in["modules/"+base+".ko"], err = io.ReadAll(files); err != nil {
				t.Fatal(err)
			}
		}
	}
	create(t, p.initrd, func(w io.Writer) error { return writeInitrd(w, in) })
	return p
}

// writeInitrd writes a compressed archive of executable files.
func writeInitrd(to io.Writer, files map[string][]byte) error {
	z := gzip.NewWriter(to)
	w := cpio.NewWriter(z)
	err := w.WriteHeader(&cpio.Header{Name: "modules", Mode: cpio.ModeDir | 0o755, Nlink: 2})
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err = errors.Join(err, w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.ModeRegular | 0o755, Nlink: 1, Size: uint32(len(files[name]))}))
		_, werr := w.Write(files[name])
		err = errors.Join(err, werr)
	}
	return errors.Join(err, w.Close(), z.Close())
}

// publishes puts a signed image into the registry and makes it a good one of the site.
func publishes(t *testing.T, l *Lab, p parts, name string, args ...string) {
	t.Helper()
	args = append([]string{"publish", l.imageRef("127.0.0.1"), "--plain-http", "--image-version", "1", "--sign", p.key}, args...)
	if _, err := l.sealboot(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	trusts(t, l, name)
}

// wantMini checks that minios is up, says all of the lines, and that its image
// was measured as it was predicted: a kind, with these artifacts.
func wantMini(t *testing.T, l *Lab, b *Boot, kind string, roles []string, lines ...string) {
	t.Helper()
	wantUp(t, b)
	for _, want := range append(lines, "handover ", "the seal key has 32 bytes") {
		if !slices.ContainsFunc(b.Demo(), func(line string) bool { return strings.Contains(line, want) }) {
			t.Errorf("the system did not say %q: %q", want, b.Demo())
		}
	}
	raw, err := os.ReadFile(l.unitPath("image.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := policy.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := doc.(*policy.Image).Attested["sha256"]
	if got := l.quoted(wire.PhaseBoot, event.PCRImage); got != want {
		t.Errorf("PCR 12 is %s, predicted was %s", got, want)
	}
	if r := record(t, l, event.TypeBootDescriptor); r.Name != kind {
		t.Errorf("an image of kind %q was measured, want %q", r.Name, kind)
	}
	var measured []string
	for _, r := range records(t, l, event.TypeArtifact) {
		measured = append(measured, r.Name)
	}
	if !slices.Equal(measured, roles) {
		t.Errorf("artifacts %q were measured, want %q", measured, roles)
	}
}

// bootsUKI has the UKI made by binutils, as the field did before there was ukify.
func bootsUKI(t *testing.T, l *Lab, p parts) {
	cmdline, out := filepath.Join(p.dir, "cmdline"), filepath.Join(p.dir, "mini.efi")
	if err := os.WriteFile(cmdline, []byte("minios=uki"), 0o644); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, s := range []struct{ name, file, at string }{
		{".cmdline", cmdline, "0x30000"}, {".linux", p.kernel, "0x2000000"}, {".initrd", p.initrd, "0x6000000"},
	} {
		args = append(args, "--add-section", s.name+"="+s.file, "--change-section-vma", s.name+"="+s.at)
	}
	if _, err := l.run(t.Context(), p.dir, "objcopy", append(args, efiStub, out)...); err != nil {
		t.Fatal(err)
	}
	publishes(t, l, p, "uki", "--uki", out)
	b := switchOn(t, l, l.Machine())
	wantMini(t, l, b, event.KindUKI, []string{event.RoleUKI, event.RoleCmdline}, "booted as uki")
}

const efiStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// bootsUKIInContainer has the kernel of a container image in a UKI, made by
// our own builder, and no other.
func bootsUKIInContainer(t *testing.T, l *Lab, p parts) {
	var efi bytes.Buffer
	if err := uki.Build(&efi, content(t, efiStub), []uki.Content{
		{Name: ".cmdline", Data: []byte("minios=container")}, {Name: ".linux", Data: content(t, p.kernel)},
	}); err != nil {
		t.Fatal(err)
	}
	base, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	base = mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := appendFiles(base, file{"usr/lib/modules/6.1/mini.efi", 0o644, efi.Bytes()}, file{"sbin/init", 0o755, p.program})
	if err == nil {
		err = keep(image, filepath.Join(p.dir, "container"))
	}
	if err != nil {
		t.Fatal(err)
	}
	publishes(t, l, p, "uki-in-container", "--container", "oci:"+filepath.Join(p.dir, "container")+":latest")
	b := switchOn(t, l, l.Machine())
	wantMini(t, l, b, event.KindContainer, []string{event.RoleKernel, event.RoleCmdline, event.RoleLayer}, "booted as container")
}

// bootsDisk follows a disk image: written by the first boot, found in order by the
// second, which could not fetch it, and written anew by the third, since
// somebody has changed one byte. The third has the image by TUF.
func bootsDisk(t *testing.T, l *Lab, p parts) {
	raw, root, blocks := diskImage(t, l, p)
	packed := raw + ".zst"
	if _, err := l.run(t.Context(), p.dir, "zstd", "-q", raw, "-o", packed); err != nil {
		t.Fatal(err)
	}
	publishes(t, l, p, "disk", "--disk", packed, "--verity-root", root, "--kernel", p.kernel, "--initrd", p.initrd,
		"--cmdline", fmt.Sprintf("minios=disk minios.disk=%s minios.blocks=%d roothash=%s", osSerial, blocks, root))
	disk := l.unitPath("os.img")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 48<<20)); err != nil {
		t.Fatal(err)
	}
	c := l.Machine()
	c.Disks = append(c.Disks, qemu.Disk{Path: disk, Serial: osSerial})
	up := func(t *testing.T, anew bool) {
		t.Helper()
		b := switchOn(t, l, c)
		wantMini(t, l, b, event.KindDisk, []string{event.RoleDisk, event.RoleVerityRoot, event.RoleKernel, event.RoleInitrd, event.RoleCmdline},
			"booted as disk", "root is on the disk, host minios")
		if got := slices.ContainsFunc(b.Events, func(e ConsoleEvent) bool { return strings.Contains(e.Text, "written anew") }); got != anew {
			t.Errorf("the loader wrote the disk: %v, want %v", got, anew)
		}
		if want := content(t, raw); !bytes.HasPrefix(content(t, disk), want) {
			t.Error("the disk does not hold the image")
		}
	}
	sum := fileDigest(t, packed)
	blob := l.path("registry", "data", "docker", "registry", "v2", "blobs", "sha256", sum[:2], sum, "data")
	if !t.Run("first boot", func(t *testing.T) { up(t, true) }) {
		return
	}
	t.Run("second boot, the image gone from the registry", func(t *testing.T) {
		if err := os.Rename(blob, blob+".gone"); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Rename(blob+".gone", blob); err != nil {
				t.Error(err)
			}
		}()
		up(t, false)
	})
	t.Run("a byte was changed, and only TUF names the image", func(t *testing.T) {
		pointTUF(t, l)
		f, err := os.OpenFile(disk, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{0xff}, 8<<20)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		up(t, true)
		wantRecord(t, l, event.TypeProvenance, map[string]string{"target": tufTarget})
	})
}

// pointTUF makes TUF name the image that the registry has, which then has another
// under that tag, with no signature.
func pointTUF(t *testing.T, l *Lab) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, fmt.Sprintf("http://127.0.0.1:%d/v2/sealboot/demo/manifests/latest", l.registry), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", string(types.OCIManifestSchema1))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	was := l.facts.image
	defer func() { l.facts.image = was }()
	l.facts.image = resp.Header.Get("Docker-Content-Digest")
	if err := errors.Join(l.PublishTUF(t.Context(), 2), l.push(t.Context(), l.facts.layout)); err != nil {
		t.Fatal(err)
	}
}

func fileDigest(t *testing.T, path string) string {
	t.Helper()
	sum := sha256.Sum256(content(t, path))
	return hex.EncodeToString(sum[:])
}

// diskImage makes a disk with a file system and its hash tree behind it.
func diskImage(t *testing.T, l *Lab, p parts) (raw, root string, blocks int64) {
	t.Helper()
	const size = 16 << 20
	tree := filepath.Join(p.dir, "tree")
	for _, dir := range []string{"dev", "proc", "sys", "etc", "sbin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	raw = filepath.Join(p.dir, "disk.img")
	if err := errors.Join(
		os.WriteFile(filepath.Join(tree, "etc", "hostname"), []byte("minios\n"), 0o644),
		os.WriteFile(filepath.Join(tree, "sbin", "init"), p.program, 0o755),
		os.WriteFile(raw, nil, 0o644), os.Truncate(raw, size),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := l.run(t.Context(), p.dir, "mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-d", tree, raw); err != nil {
		t.Fatal(err)
	}
	out, err := l.run(t.Context(), p.dir, "veritysetup", "format", "--salt=-", fmt.Sprintf("--hash-offset=%d", size),
		fmt.Sprintf("--data-blocks=%d", size/4096), raw, raw)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if value, ok := strings.CutPrefix(line, "Root hash:"); ok {
			root = strings.TrimSpace(value)
		}
	}
	if b, err := hex.DecodeString(root); err != nil || len(b) != 32 {
		t.Fatalf("veritysetup named no root hash:\n%s", out)
	}
	return raw, root, size / 4096
}
