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
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"

	"github.com/sealboot/sealboot/boot/source/oci"
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
	addr, start := dockerRegistryAt(t, config...)
	start()
	return addr
}

// dockerRegistryAt returns the address of a registry that start starts, and
// starts again after kill.
func dockerRegistryAt(t *testing.T, config ...string) (addr string, start func() (kill func())) {
	t.Helper()
	path := tool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
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
	return addr, func() func() {
		cmd := exec.Command(path, "serve", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := sync.OnceFunc(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		t.Cleanup(kill)
		for range 200 {
			if conn, err := net.Dial("tcp", addr); err == nil {
				_ = conn.Close()
				return kill
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatal("docker-registry does not answer")
		return nil
	}
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

// meteredConn tells how much was received.
type meteredConn struct {
	net.Conn
	received func(n int)
}

func (c meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received(n)
	return n, err
}

// TestRegistryRestarts kills docker-registry in the middle of a blob, twice, and
// starts it again: what has arrived is kept.
func TestRegistryRestarts(t *testing.T) {
	addr, start := dockerRegistryAt(t)
	kill := start()
	const size = 32 << 20
	layer := random(size)
	pushImage(t, openRemote(t, addr+"/os:v1", oci.Connection{PlainHTTP: true}).Repository(), "v1", layer)
	var mu sync.Mutex
	received, restarts := 0, []int{size / 4, size / 2}
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		if received += n; len(restarts) > 0 && received >= restarts[0] {
			restarts = restarts[1:]
			kill()
			kill = start()
		}
	}
	conn := oci.Connection{PlainHTTP: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		// Or all of the blob would be on its way at once.
		if err := c.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
			return nil, err
		}
		return meteredConn{c, count}, nil
	}}
	src, err := oci.New(oci.Options{Places: []oci.Place{openRemote(t, addr+"/os:v1", conn)}})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if err := img.Prefetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkBlobs(t.Context(), t, img, layer)
	mu.Lock()
	defer mu.Unlock()
	t.Logf("received %d bytes of %d", received, size)
	if len(restarts) > 0 {
		t.Error("the registry was not restarted")
	}
	if more := received - size; more > 1<<20 {
		t.Errorf("%d bytes came twice", more)
	}
}
