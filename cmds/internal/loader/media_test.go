package loader

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/flow"
)

// copyToLayout copies the world's image from the registry to a layout, as an
// operator does for a USB stick.
func (w *world) copyToLayout() string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "stick")
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	copyLayout(w.t, w.repository("os"), filepath.Join(dir, "os"))
	return dir
}

// copyLayout copies the tag stable, with its signatures, to a layout.
func copyLayout(t *testing.T, repo *remote.Repository, dir string) {
	t.Helper()
	layout, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := oras.Copy(t.Context(), repo, "stable", layout, "stable", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	signatures := "sha256-" + d.Digest.Encoded() + ".sig"
	if _, err := repo.Resolve(t.Context(), signatures); err != nil {
		return
	}
	if _, err := oras.Copy(t.Context(), repo, signatures, layout, signatures, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}

// TestMedia boots the image from local media, a layout in a directory and one in a
// tar file, with the registry gone, and finds the same image PCR as from the
// registry.
func TestMedia(t *testing.T) {
	w := newWorld(t)
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot from the registry: %v, %v\n%s", outcome, err, &w.out)
	}
	want := w.pcr12()
	if want != w.afterCap() {
		t.Errorf("PCR 12 = %s from the registry, predicted %s", want, w.afterCap())
	}
	directory := w.copyToLayout()
	file := t.TempDir()
	if out, err := exec.Command("tar", "-cf", filepath.Join(file, "os.tar"), "-C", filepath.Join(directory, "os"), ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.registry.Close()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable"}}
	// Another site config is another PCR 13, which is compared by its events; PCR 12 is by value.
	for form, dir := range map[string]string{"directory": directory, "tar": file} {
		w.layout = dir
		w.tpm.Open(t)
		w.tpm.Reset(t)
		w.tpm.Close()
		if outcome, err := w.boot(); outcome != flow.Kexec {
			t.Fatalf("boot from a %s: %v, %v\n%s", form, outcome, err, &w.out)
		}
		if got := w.pcr12(); got != want {
			t.Errorf("PCR 12 = %s from a %s; from the registry %s", got, form, want)
		}
	}
}

// TestMediaChanged shows that a changed blob on the medium is not booted.
func TestMediaChanged(t *testing.T) {
	w := newWorld(t)
	w.layout = w.copyToLayout()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable"}}
	kernel := ocispec.Descriptor{Digest: digest.FromString(kernelText)}
	path := filepath.Join(w.layout, "os", "blobs", "sha256", kernel.Digest.Encoded())
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("A kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	if outcome, err := w.boot(); outcome != flow.Reboot || err == nil || w.loaded != nil {
		t.Errorf("boot: %v, %v", outcome, err)
	}
}
