package loader

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/sealboot/sealboot/boot/base/meminfo"
	"github.com/sealboot/sealboot/boot/boottest/volumetest"
	"github.com/sealboot/sealboot/boot/config"
	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/machine/console"
)

// TestNoRoom has a container image whose root would not fit into memory, as its
// manifest says: no blob of it is fetched.
func TestNoRoom(t *testing.T) {
	var blobs atomic.Int64
	images := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/os"
	repo, err := remote.NewRepository(name)
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	blob := func(mediaType, text string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
		if err := repo.Push(t.Context(), d, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      blob(ocispec.MediaTypeImageConfig, "{}"),
		Layers:      []ocispec.Descriptor{blob(ocispec.MediaTypeImageLayerZstd, "small")},
		Annotations: map[string]string{osimage.AnnotationUnpacked: strconv.Itoa(1 << 44)},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := repo.PushReference(t.Context(), d, strings.NewReader(string(raw)), "v1"); err != nil {
		t.Fatal(err)
	}
	site := &config.Site{Name: "s", Lab: true, Sources: []config.Source{{Type: config.SourceOCI, Ref: name + ":v1", PlainHTTP: true}}}
	m, err := New(Options{Site: site, Console: console.New(console.Options{Out: t.Output()}), NoTPM: true, NoNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.volumes = volumetest.Machine(t)
	s, err := m.source(&site.Sources[0])
	if err != nil {
		t.Fatal(err)
	}
	var memory *meminfo.ShortError
	if _, err := s.Fetch(t.Context()); !errors.As(err, &memory) || memory.Need != 2<<44 || memory.Available <= 0 {
		t.Errorf("error is %v; want both numbers", err)
	}
	if n := blobs.Load(); n != 0 {
		t.Errorf("%d blobs were fetched", n)
	}
}
