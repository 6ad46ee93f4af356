package media_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/fetch"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/boot/source/oci"
)

const (
	marker = `{"imageLayoutVersion":"1.0.0"}`
	config = "{}"
	layer  = "the only layer"
)

func descriptor(mediaType, content string) string {
	return `{"mediaType":"` + mediaType + `","digest":"` + digest.FromString(content).String() + `","size":` + itoa(len(content)) + `}`
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func manifest() string {
	return `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` +
		descriptor(ocispec.MediaTypeImageConfig, config) + `,"layers":[` + descriptor(ocispec.MediaTypeImageLayer, layer) + `]}`
}

func index(tag string) string {
	d := strings.TrimSuffix(descriptor(ocispec.MediaTypeImageManifest, manifest()), "}")
	return `{"schemaVersion":2,"manifests":[` + d + `,"annotations":{"org.opencontainers.image.ref.name":"` + tag + `"}}]}`
}

// good is a layout: names and contents.
func good() map[string]string {
	files := map[string]string{"oci-layout": marker, "index.json": index("v1")}
	for _, blob := range []string{config, layer, manifest()} {
		files["blobs/sha256/"+digest.FromString(blob).Encoded()] = blob
	}
	return files
}

func writeDir(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for name, content := range files {
		if err := tw.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// read opens the image of dir and returns its layer.
func read(t *testing.T, dir, ref string) (string, error) {
	t.Helper()
	layouts, err := media.Open(t.Context(), dir, ref)
	if err != nil {
		return "", err
	}
	var places []oci.Place
	for _, l := range layouts {
		defer l.Close()
		places = append(places, l)
	}
	src, err := oci.New(oci.Options{Places: places, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := src.Open(t.Context())
	if err != nil {
		return "", err
	}
	defer img.Close()
	if err := img.Prefetch(t.Context()); err != nil {
		return "", err
	}
	f, err := img.Blob(t.Context(), img.Contents()[1])
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func TestOpen(t *testing.T) {
	manifestDigest := digest.FromString(manifest()).String()
	for _, ref := range []string{"", "v1", manifestDigest} {
		root, sub, file := t.TempDir(), t.TempDir(), t.TempDir()
		writeDir(t, root, good())
		writeDir(t, filepath.Join(sub, "images"), good())
		writeDir(t, file, map[string]string{"os.tar": string(tarOf(t, good())), "other.tar": "junk", "notes.txt": "x"})
		for name, dir := range map[string]string{"the directory itself": root, "a directory in it": sub, "a tar file in it": file} {
			if got, err := read(t, dir, ref); err != nil || got != layer {
				t.Errorf("%s, reference %q: %q, %v", name, ref, got, err)
			}
		}
	}
}

// TestRefuses has layouts that are wrong in one way.
func TestRefuses(t *testing.T) {
	layerPath := "blobs/sha256/" + digest.FromString(layer).Encoded()
	manifestPath := "blobs/sha256/" + digest.FromString(manifest()).Encoded()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte(layer), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		spoil func(t *testing.T, dir string)
		ref   string
		err   error // nil: any
	}{
		{name: "no layout", spoil: func(t *testing.T, dir string) { remove(t, dir, "oci-layout") }, err: fs.ErrNotExist},
		{name: "another version", spoil: put("oci-layout", `{"imageLayoutVersion":"9"}`), err: media.ErrLayout},
		{name: "no index", spoil: func(t *testing.T, dir string) { remove(t, dir, "index.json") }, err: media.ErrLayout},
		{name: "index is not JSON", spoil: put("index.json", "{"), err: oci.ErrManifest},
		{name: "index is huge", spoil: func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "index.json"), 1<<40); err != nil {
				t.Fatal(err)
			}
		}, err: media.ErrLayout},
		{name: "another tag", spoil: put("index.json", index("v2")), ref: "v1", err: oci.ErrNotFound},
		{name: "changed manifest", spoil: put(manifestPath, strings.Replace(manifest(), "2", "3", 1))},
		{name: "changed layer", spoil: put(layerPath, "the other layer")},
		{name: "longer layer", spoil: put(layerPath, layer+layer)},
		{name: "no layer", spoil: func(t *testing.T, dir string) { remove(t, dir, layerPath) }},
		{name: "layer is a link that leads out", spoil: func(t *testing.T, dir string) {
			remove(t, dir, layerPath)
			if err := os.Symlink(outside, filepath.Join(dir, layerPath)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "index is a FIFO", spoil: func(t *testing.T, dir string) {
			remove(t, dir, "index.json")
			if err := syscall.Mkfifo(filepath.Join(dir, "index.json"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, err: media.ErrLayout},
		{name: "size that overflows", spoil: put("index.json", strings.Replace(index("v1"), `"size":`, `"size":-`, 1)), err: oci.ErrManifest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeDir(t, dir, good())
			tt.spoil(t, dir)
			got, err := read(t, dir, tt.ref)
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("got %q, error %v, want %v", got, err, tt.err)
			}
		})
	}
}

// TestBlobsAreVerified asks the layout itself: who resolves an image checks once more.
func TestBlobsAreVerified(t *testing.T) {
	dir := t.TempDir()
	writeDir(t, dir, good())
	layerPath := "blobs/sha256/" + digest.FromString(layer).Encoded()
	want := ocispec.Descriptor{Digest: digest.FromString(layer), Size: int64(len(layer))}
	layouts, err := media.Open(t.Context(), dir, "v1")
	if err != nil || len(layouts) != 1 {
		t.Fatal(layouts, err)
	}
	l := layouts[0]
	defer l.Close()
	if b, err := l.Bytes(t.Context(), want, 100); err != nil || string(b) != layer {
		t.Fatalf("%q, %v", b, err)
	}
	longer := want
	longer.Size++
	sha512 := want
	sha512.Digest = digest.SHA512.FromString(layer)
	for name, c := range map[string]struct {
		d   ocispec.Descriptor
		err error
	}{
		"another size":   {longer, fetch.ErrDigest},
		"another digest": {sha512, media.ErrLayout},
		"a path":         {ocispec.Descriptor{Digest: "sha256:../../index.json"}, media.ErrLayout},
	} {
		if _, err := l.Bytes(t.Context(), c.d, 100); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
	put(layerPath, "the only laver")(t, dir)
	if _, err := l.Bytes(t.Context(), want, 100); !errors.Is(err, fetch.ErrDigest) {
		t.Errorf("changed: %v, want %v", err, fetch.ErrDigest)
	}
	if _, err := l.Bytes(t.Context(), want, 5); !errors.Is(err, media.ErrLayout) {
		t.Errorf("over its limit: %v, want %v", err, media.ErrLayout)
	}
}

func TestWhichImage(t *testing.T) {
	dir := t.TempDir()
	files := good()
	other := strings.Replace(manifest(), ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, 1)
	files["blobs/sha256/"+digest.FromString(other).Encoded()] = other
	files["index.json"] = strings.Replace(index("v1"), "]}", ","+descriptor(ocispec.MediaTypeImageManifest, other)+"]}", 1)
	writeDir(t, dir, files)
	if _, err := media.Open(t.Context(), dir, ""); !errors.Is(err, media.ErrLayout) || !strings.Contains(err.Error(), "2 images") {
		t.Errorf("two images and no name: %v", err)
	}
}

func TestTarWithAnEntryTwice(t *testing.T) {
	one := tarOf(t, good())
	twice := append(one[:len(one)-1024:len(one)-1024], tarOf(t, map[string]string{"index.json": index("v1")})...)
	dir := t.TempDir()
	writeDir(t, dir, map[string]string{"x.tar": string(twice)})
	if _, err := media.Open(t.Context(), dir, "v1"); !errors.Is(err, media.ErrLayout) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("found %v, want %v with \"twice\"", err, media.ErrLayout)
	}
}

func put(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		writeDir(t, dir, map[string]string{name: content})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// FuzzTar: whatever a tar file holds, an image that opens has the manifest
// that its digest names.
func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, good()))
	f.Add([]byte("junk"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		layouts, err := media.Open(t.Context(), dir, "")
		if err != nil {
			return
		}
		for _, l := range layouts {
			desc, raw, err := l.Manifest(t.Context(), l.Reference())
			if err == nil && (digest.FromBytes(raw) != desc.Digest || desc.Digest.String() != l.Reference()) {
				t.Errorf("opened %s, got %s", l.Reference(), digest.FromBytes(raw))
			}
			_ = l.Close()
		}
	})
}
