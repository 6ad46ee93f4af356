package ocipush_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/sealboot/sealboot/boot/image/osimage"
	"github.com/sealboot/sealboot/boot/publish/ocipush"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
	"github.com/sealboot/sealboot/measure/floor"
)

// pushJSON pushes a manifest or a config.
func pushJSON(t *testing.T, dst *ocipush.Target, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	raw, ok := v.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if has, err := dst.Exists(t.Context(), d); err != nil || has {
		return d
	}
	if err := dst.Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	return d
}

// container is an image of two layers; the upper hides a file of the lower.
func container(t *testing.T, dst *ocipush.Target, arch string) ocispec.Descriptor {
	t.Helper()
	layer := func(name string, size int) ocispec.Descriptor {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(make([]byte, size))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return pushJSON(t, dst, ocispec.MediaTypeImageLayer, b.Bytes())
	}
	return pushJSON(t, dst, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: pushJSON(t, dst, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}),
		Layers: []ocispec.Descriptor{layer("boot/vmlinuz-1", 1<<20), layer("boot/vmlinuz-1", 3<<20)},
	})
}

// manifest is what a location has under v1 for a platform.
func manifest(t *testing.T, dir, arch string) *oci.Resolved {
	t.Helper()
	layouts, err := media.Open(t.Context(), dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer layouts[0].Close()
	res, err := oci.Resolve(t.Context(), layouts[0], "v1", ocispec.Platform{OS: "linux", Architecture: arch})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// annotation is what a manifest says about the unpacked size.
func annotation(t *testing.T, res *oci.Resolved) string {
	t.Helper()
	m, err := oci.ParseManifest(res.Descriptor.MediaType, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return m.Annotations[osimage.AnnotationUnpacked]
}

// TestContainer publishes container images and looks at what the loader is told.
func TestContainer(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return "oci:" + filepath.Join(dir, name) + ":v1" }
	publishes := func(from, to string) ocispec.Descriptor {
		t.Helper()
		dst := target(t, at(to))
		d, err := ocipush.Container(t.Context(), source(t, at(from)), dst, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := dst.Finish(); err != nil {
			t.Fatal(err)
		}
		return d
	}
	from := target(t, at("image"))
	image := container(t, from, "amd64")
	if err := from.Tag(t.Context(), image, "v1"); err != nil {
		t.Fatal(err)
	}
	noted := publishes("image", "noted")
	res := manifest(t, filepath.Join(dir, "noted"), "amd64")
	size, err := strconv.ParseInt(annotation(t, res), 10, 64)
	// The hidden kernel is not in the root; the first process and names are.
	if err != nil || size < 3<<20 || size > 3<<20+64<<10 || res.Descriptor.Digest != noted.Digest {
		t.Errorf("annotation %d, %v", size, err)
	}
	// The loader asks for that memory before it fetches.
	needs, err := osimage.Estimate(res.Manifest)
	if err != nil || needs.RAM != max(2*size, size+needs.Fetch) {
		t.Errorf("needs %+v, %v", needs, err)
	}
	if again := publishes("noted", "again"); again.Digest != noted.Digest {
		t.Error("an image with the annotation was changed")
	}

	// No version is published that a new machine refuses, be it given or the image's own.
	tooHigh := uint64(floor.MaxJump + 1)
	if _, err := ocipush.Container(t.Context(), source(t, at("image")), target(t, at("high")), &tooHigh); !errors.Is(err, floor.ErrJump) {
		t.Errorf("version %d: %v, want ErrJump", tooHigh, err)
	}
	m, err := oci.ParseManifest(res.Descriptor.MediaType, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	m.Annotations[osimage.AnnotationVersion] = osimage.FormatVersion(tooHigh)
	if err := from.Tag(t.Context(), pushJSON(t, from, ocispec.MediaTypeImageManifest, m), "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := ocipush.Container(t.Context(), source(t, at("image")), target(t, at("high")), nil); !errors.Is(err, floor.ErrJump) {
		t.Errorf("an image of version %d: %v, want ErrJump", tooHigh, err)
	}

	// One whose config names an architecture that no loader knows is not published.
	mistyped := container(t, from, "x86_64")
	if err := from.Tag(t.Context(), mistyped, "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := ocipush.Container(t.Context(), source(t, at("image")), target(t, at("mistyped")), nil); err == nil || !strings.Contains(err.Error(), "x86_64") {
		t.Errorf("an image for x86_64: %v", err)
	}

	arm := container(t, from, "arm64")
	odd := pushJSON(t, from, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-sbom",
		Config: pushJSON(t, from, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{pushJSON(t, from, "text/plain", []byte("sbom"))},
	})
	image.Platform, arm.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	odd.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	index := pushJSON(t, from, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, arm, odd},
	})
	if err := from.Tag(t.Context(), index, "v1"); err != nil {
		t.Fatal(err)
	}
	publishes("image", "index")
	for _, arch := range []string{"amd64", "arm64"} {
		res := manifest(t, filepath.Join(dir, "index"), arch)
		if annotation(t, res) == "" || res.Index == "" {
			t.Errorf("%s: annotation %q, index %q", arch, annotation(t, res), res.Index)
		}
		if arch == "amd64" {
			if diff := cmp.Diff(noted.Digest, res.Descriptor.Digest); diff != "" {
				t.Errorf("the index has another image than the one that was published alone: %s", diff)
			}
		}
	}
	if _, err := content.FetchAll(t.Context(), source(t, at("index")), odd); err != nil {
		t.Errorf("the rest of the index: %v", err)
	}
}
