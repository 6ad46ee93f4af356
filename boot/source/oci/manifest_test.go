package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/oci"
)

func admitOnly(want digest.Digest) func(context.Context, oci.Repository, ocispec.Descriptor) ([]string, error) {
	return func(_ context.Context, _ oci.Repository, d ocispec.Descriptor) ([]string, error) {
		if d.Digest != want {
			return nil, oci.ErrNotAdmitted
		}
		return []string{"key"}, nil
	}
}

const (
	empty        = `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
	goodManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` + empty + `,"layers":[` + empty + `]}`
)

// fake is a repository of manifests; what it says of them is its media types.
type fake map[string]string

func (f fake) Manifest(_ context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	b, ok := f[ref]
	if !ok {
		return ocispec.Descriptor{}, nil, oci.ErrNotFound
	}
	mediaType := ocispec.MediaTypeImageManifest
	if strings.Contains(b, `"manifests"`) {
		mediaType = ocispec.MediaTypeImageIndex
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(b), Size: int64(len(b))}, []byte(b), nil
}

func (f fake) Referrers(context.Context, ocispec.Descriptor, string) iter.Seq2[ocispec.Descriptor, error] {
	return func(func(ocispec.Descriptor, error) bool) {}
}
func (f fake) Bytes(context.Context, ocispec.Descriptor, int64) ([]byte, error) { return nil, nil }

// put adds content under its digest and returns an entry of an index for it.
func (f fake) put(content, platform string) string {
	d := digest.FromString(content)
	f[d.String()] = content
	if platform != "" {
		os, arch, _ := strings.Cut(platform, "/")
		platform = fmt.Sprintf(`,"platform":{"os":%q,"architecture":%q}`, os, arch)
	}
	return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d%s}`, d, len(content), platform)
}

func index(entries ...string) string {
	return `{"schemaVersion":2,"manifests":[` + strings.Join(entries, ",") + `]}`
}

func TestResolve(t *testing.T) {
	repo := fake{"single": goodManifest}
	arm := strings.Replace(goodManifest, `"layers"`, `"annotations":{"a":"arm"},"layers"`, 1)
	multi := index(repo.put(goodManifest, "unknown/unknown"), repo.put(arm, "linux/arm64"), repo.put(goodManifest, "linux/amd64"))
	repo["multi"] = multi
	// As podman makes an index of artifacts (pulp/netboot): with an OS version,
	// an artifact type and annotations.
	podman := func(entry, arch string) string {
		return strings.TrimSuffix(repo.put(entry, ""), "}") + `,"annotations":{"org.pulpproject.netboot.version":"1"},"platform":{"architecture":"` + arch +
			`","os":"linux","os.version":"fedora-40"},"artifactType":"application/vnd.org.pulpproject.netboot.artifact.v1"}`
	}
	repo["pulp"] = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` +
		podman(goodManifest, "amd64") + "," + podman(arm, "arm64") + `],"annotations":{"org.pulpproject.netboot.version":"1"}}`
	repo["nested"] = index(repo.put(multi, ""))
	repo["foreign"] = index(repo.put(goodManifest, "linux/s390x"))
	loop := multi
	for range 10 {
		loop = index(repo.put(loop, ""))
	}
	repo["deep"] = loop
	for _, tt := range []struct {
		ref, arch string
		want      string
		err       error
	}{
		{"single", "amd64", goodManifest, nil},
		{"multi", "amd64", goodManifest, nil},
		{"multi", "arm64", arm, nil},
		{"nested", "arm64", arm, nil},
		{"pulp", "amd64", goodManifest, nil},
		{"pulp", "arm64", arm, nil},
		{"multi", "riscv64", "", oci.ErrPlatform},
		{"foreign", "amd64", "", oci.ErrPlatform},
		{"deep", "amd64", "", oci.ErrManifest},
		{"missing", "amd64", "", oci.ErrNotFound},
	} {
		got, err := oci.Resolve(t.Context(), repo, tt.ref, ocispec.Platform{OS: "linux", Architecture: tt.arch})
		if !errors.Is(err, tt.err) || err == nil && string(got.Manifest) != tt.want {
			t.Errorf("%s for %s: %v", tt.ref, tt.arch, err)
		}
		if err == nil && (got.Index == "") != (tt.ref == "single") {
			t.Errorf("%s: index is %q", tt.ref, got.Index)
		}
	}
}

// TestParseManifestRefuses breaks one thing in a good manifest and wants to be told which.
func TestParseManifestRefuses(t *testing.T) {
	const manifest = ocispec.MediaTypeImageManifest
	edit := func(old, new string) string { return strings.ReplaceAll(goodManifest, old, new) }
	layer := `{"mediaType":"a","digest":"sha256:` + strings.Repeat("4", 64) + `","size":0},`
	for _, c := range []struct{ want, mediaType, text string }{
		{"media type", ocispec.MediaTypeImageIndex, goodManifest},
		{"more than", manifest, goodManifest + strings.Repeat(" ", oci.MaxManifest)},
		{"schema version 1", manifest, edit(`"schemaVersion":2`, `"schemaVersion":1`)},
		{"it says that it is", manifest, edit("image.manifest", "image.index")},
		{"both an index and", manifest, edit(`"layers"`, `"manifests":[],"layers"`)},
		{"not a sha256", manifest, edit("sha256:44", "sha256:zz")},
		{"not a sha256", manifest, edit("sha256:", "sha512:")},
		{"size -2", manifest, edit(`"size":2`, `"size":-2`)},
		{"size 9223372036854775807", manifest, edit(`"size":2`, `"size":9223372036854775807`)},
		{"descriptors, more than", manifest, edit(`"layers":[`, `"layers":[`+strings.Repeat(layer, 5000))},
		{"invalid character", manifest, edit("{", "[")},
		{"cannot unmarshal", manifest, edit(`"size":2`, `"size":"2"`)},
	} {
		if _, err := oci.ParseManifest(c.mediaType, []byte(c.text)); !errors.Is(err, oci.ErrManifest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200v, want %v with %q", err, oci.ErrManifest, c.want)
		}
	}
}

// FuzzParseManifest: the sizes of a manifest that is accepted add up, and its
// digests can be asked for.
func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(goodManifest))
	f.Add([]byte(index()))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := oci.ParseManifest(ocispec.MediaTypeImageManifest, b)
		if err != nil {
			return
		}
		var sum int64
		for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if sum += d.Size; d.Size < 0 || sum < 0 || len(d.Digest.Encoded()) != 64 {
				t.Errorf("accepted %s of %d bytes", d.Digest, d.Size)
			}
		}
		if again, err := json.Marshal(m); err == nil {
			if _, err := oci.ParseManifest(ocispec.MediaTypeImageManifest, again); err != nil {
				t.Errorf("encoded again it is refused: %v", err)
			}
		}
	})
}
