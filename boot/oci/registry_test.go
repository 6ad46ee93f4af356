package oci_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"github.com/sealboot/sealboot/boot/oci"
)

// tool returns the path of a program, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// dockerRegistry starts Debian's docker-registry and returns its address. config
// is more of its configuration: inside "http", and at the top.
func dockerRegistry(t *testing.T, config ...string) string {
	t.Helper()
	path := tool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp:\n  addr: %q\n", dir, addr)
	conf += strings.Join(config, "")
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("docker-registry does not answer")
	return ""
}

// pushImage makes an image of layers and pushes it.
func pushImage(t *testing.T, target oras.Target, tag string, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	ctx := t.Context()
	store := memory.New()
	var descs []ocispec.Descriptor
	seen := map[string]bool{}
	for _, l := range layers {
		d := content.NewDescriptorFromBytes(ocispec.MediaTypeImageLayer, l)
		descs = append(descs, d)
		if !seen[d.Digest.String()] {
			seen[d.Digest.String()] = true
			if err := store.Push(ctx, d, bytes.NewReader(l)); err != nil {
				t.Fatal(err)
			}
		}
	}
	desc, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, "application/vnd.test", oras.PackManifestOptions{Layers: descs})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Tag(ctx, desc, tag); err != nil {
		t.Fatal(err)
	}
	if _, err := oras.Copy(ctx, store, tag, target, tag, oras.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	return desc
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func openRemote(t *testing.T, ref string, conn oci.Connection) *oci.Remote {
	t.Helper()
	r, err := oci.NewRemote(ref, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func checkBlobs(ctx context.Context, t *testing.T, img *oci.Image, layers ...[]byte) {
	t.Helper()
	for i, d := range img.Contents()[1:] {
		f, err := img.Blob(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		_ = f.Close()
		if err != nil || !bytes.Equal(got, layers[i]) {
			t.Errorf("layer %d: wrong content, error %v", i, err)
		}
	}
}

func TestDockerRegistry(t *testing.T) {
	addr := dockerRegistry(t)
	r := openRemote(t, addr+"/os/test:v1", oci.Connection{PlainHTTP: true})
	big, small := random(12<<20), random(1000)
	desc := pushImage(t, r.Repository(), "v1", big, small, small)
	src, err := oci.New(oci.Options{Places: []oci.Place{r}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if img.Descriptor.Digest != desc.Digest {
		t.Errorf("opened %s, want %s", img.Descriptor.Digest, desc.Digest)
	}
	if err := img.Prefetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkBlobs(t.Context(), t, img, big, small, small)
}
