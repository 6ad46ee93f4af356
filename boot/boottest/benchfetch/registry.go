package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/source/oci"
)

const repository = "bench/image"

// registry is a docker-registry that was started for the measurement.
type registry struct {
	addr, dir string
	cmd       *exec.Cmd
}

func startRegistry(ctx context.Context, dir string) (*registry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %q}\n", filepath.Join(dir, "registry"), addr)
	path := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	r := &registry{addr: addr, dir: dir, cmd: exec.CommandContext(ctx, "docker-registry", "serve", path)}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			return r, resp.Body.Close()
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.stop()
	return nil, fmt.Errorf("docker-registry at %s does not answer", addr)
}

func (r *registry) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // killed
}

type image struct {
	reference string
	blob      ocispec.Descriptor
	total     int64 // bytes of manifest, config and blob
}

// push makes an image whose only layer is random, in a gzip frame that stores
// it as it is: skopeo would compress what is not compressed.
func (r *registry) push(ctx context.Context, size int64) (image, error) {
	img := image{reference: r.addr + "/" + repository + ":v1"}
	path := filepath.Join(r.dir, "layer")
	blob, diffID, err := writeLayer(path, size)
	if err != nil {
		return img, err
	}
	img.blob = blob
	remote, err := oci.NewRemote(img.reference, oci.Connection{PlainHTTP: true})
	if err != nil {
		return img, err
	}
	defer remote.Close()
	layer, err := os.Open(path)
	if err != nil {
		return img, err
	}
	defer layer.Close()
	config, err := json.Marshal(ocispec.Image{
		Platform: oci.ThisPlatform(),
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		return img, err
	}
	configDesc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageConfig, config)
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{blob},
	})
	if err != nil {
		return img, err
	}
	manifestDesc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest)
	img.total = blob.Size + configDesc.Size + manifestDesc.Size
	repo := remote.Repository()
	if err := repo.Push(ctx, blob, layer); err != nil {
		return img, err
	}
	if err := repo.Push(ctx, configDesc, bytes.NewReader(config)); err != nil {
		return img, err
	}
	return img, repo.PushReference(ctx, manifestDesc, bytes.NewReader(manifest), "v1")
}

func writeLayer(path string, size int64) (blob ocispec.Descriptor, diffID digest.Digest, err error) {
	f, err := os.Create(path)
	if err != nil {
		return blob, "", err
	}
	defer f.Close()
	outer, inner := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, outer), gzip.NoCompression)
	if err != nil {
		return blob, "", err
	}
	if _, err := io.CopyN(io.MultiWriter(z, inner), rand.Reader, size); err != nil {
		return blob, "", err
	}
	if err := z.Close(); err != nil {
		return blob, "", err
	}
	st, err := f.Stat()
	if err != nil {
		return blob, "", err
	}
	blob = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Size: st.Size(), Digest: digest.NewDigest(digest.SHA256, outer)}
	return blob, digest.NewDigest(digest.SHA256, inner), nil
}
