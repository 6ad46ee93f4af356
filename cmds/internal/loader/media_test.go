package loader

import (
	"context"
	"os"
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
	layout, err := oci.New(filepath.Join(dir, "os"))
	if err != nil {
		w.t.Fatal(err)
	}
	repo, err := remote.NewRepository(w.host() + "/os")
	if err != nil {
		w.t.Fatal(err)
	}
	repo.PlainHTTP = true
	if _, err := oras.Copy(context.Background(), repo, "stable", layout, "stable", oras.DefaultCopyOptions); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// TestMedia boots the image from local media, with the registry gone, and finds
// the same image PCR as from the registry.
func TestMedia(t *testing.T) {
	w := newWorld(t)
	w.layout = w.copyToLayout()
	w.registry.Close()
	w.conf.Sources = []config.Source{{Type: config.SourceMedia, Ref: "stable"}}
	if outcome, err := w.boot(); outcome != flow.Kexec {
		t.Fatalf("boot: %v, %v\n%s", outcome, err, &w.out)
	}
	if got := w.pcr12(); got != w.afterCap() {
		t.Errorf("PCR 12 = %s; from the registry %s", got, w.afterCap())
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
