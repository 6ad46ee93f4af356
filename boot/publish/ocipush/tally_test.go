package ocipush_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/boottest/ukitest"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/oci"
)

// TestCopyProgress copies from a registry and from a layout, which takes other
// ways through the code, then what is there already.
func TestCopyProgress(t *testing.T) {
	dir, addr := t.TempDir(), registry(t)
	published(t, target(t, addr+"/os/test:v1"))
	for _, step := range []struct {
		from, to string
		copies   bool
	}{
		{addr + "/os/test:v1", "oci:" + dir + ":v1", true},
		{"oci:" + dir + ":v1", addr + "/os/copy:v1", true},
		{addr + "/os/test:v1", "oci:" + dir + ":v1", false},
	} {
		var copied int64
		var last fetch.Progress
		_, err := ocipush.Copy(t.Context(), source(t, step.from), target(t, step.to), ocipush.CopyOptions{
			Note: func(d ocispec.Descriptor) { copied += d.Size },
			Progress: func(p fetch.Progress) {
				if p.Done > p.Total {
					t.Errorf("to %s: %d of %d bytes", step.to, p.Done, p.Total)
				}
				last = p
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if last.Done != copied || last.Total != copied || (copied > 0) != step.copies {
			t.Errorf("from %s to %s: %d of %d bytes at the end, %d were copied", step.from, step.to, last.Done, last.Total, copied)
		}
	}
}

// TestDamagedIndex does to a layout what a power cut can, and follows the advice.
func TestDamagedIndex(t *testing.T) {
	dir, addr := t.TempDir(), registry(t)
	desc, keys := published(t, target(t, addr+"/os/test:v1"))
	into := "oci:" + filepath.Join(dir, "layout") + ":v1"
	again := func() error {
		loc, err := ocipush.ParseLocation(into)
		if err != nil {
			t.Fatal(err)
		}
		dst, err := loc.Target(t.Context(), oci.Connection{PlainHTTP: true})
		if err != nil {
			return err
		}
		defer dst.Close()
		_, err = ocipush.Copy(t.Context(), source(t, addr+"/os/test:v1"), dst, ocipush.CopyOptions{})
		return err
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(dir, "layout", ocispec.ImageIndexFile)
	manifest := filepath.Join(dir, "layout", ocispec.ImageBlobsDir, "sha256", desc.Digest.Encoded())
	for _, damaged := range []string{index, manifest} {
		if err := os.Chmod(damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(damaged, 0); err != nil {
			t.Fatal(err)
		}
		if err := again(); err == nil || !strings.Contains(err.Error(), "if "+index+" or a manifest that it names is damaged, move it away") {
			t.Fatalf("%s: %v", damaged, err)
		}
		if err := os.Remove(index); err != nil {
			t.Fatal(err)
		}
		if err := again(); err != nil {
			t.Fatal(err)
		}
		checkBoots(t, layout(t, dir, "v1"), desc, keys)
	}
}

// TestPublishProgress publishes files, then the same again.
func TestPublishProgress(t *testing.T) {
	addr := registry(t)
	a := ocipush.Artifact{Kernel: write(t, "k", []byte(ukitest.BzImage("kernel"))), Initrd: write(t, "i", make([]byte, 1<<20))}
	for _, again := range []bool{false, true} {
		var last fetch.Progress
		watched, flush := target(t, addr+"/os/test:v1").Watched(func(p fetch.Progress) {
			if p.Done > p.Total {
				t.Errorf("%d of %d bytes", p.Done, p.Total)
			}
			last = p
		})
		if _, err := a.Push(t.Context(), watched); err != nil {
			t.Fatal(err)
		}
		flush()
		if last.Done != last.Total || (last.Done > 1<<20) == again || again && last.Done > 0 {
			t.Errorf("again %v: %d of %d bytes at the end", again, last.Done, last.Total)
		}
	}
}
