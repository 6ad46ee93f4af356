package media_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/base/survey"
	"github.com/sealboot/sealboot/boot/source/media"
	"github.com/sealboot/sealboot/measure/heaptest"
)

// large is a manifest of 4 MiB that is about nothing; its blob is one file however often an index names it.
func large(t *testing.T, dir string, n int) string {
	t.Helper()
	head := fmt.Sprintf(`{"schemaVersion":2,"n":%d,"x":"`, n)
	content := head + strings.Repeat("x", 4<<20-len(head)-2) + `"}`
	writeDir(t, dir, map[string]string{blobPath(content): content})
	return descriptor(ocispec.MediaTypeImageManifest, content)
}

func blobPath(content string) string { return "blobs/sha256/" + digest.FromString(content).Encoded() }

// TestBudget: whatever a medium is full of, a search reads 64 MiB of it. An index with 4,096 descriptors took 430 s.
func TestBudget(t *testing.T) {
	dir := t.TempDir()
	writeDir(t, dir, good())
	list := []string{strings.TrimSuffix(strings.TrimPrefix(index("v1"), `{"schemaVersion":2,"manifests":[`), `]}`)}
	for i := range 20 {
		list = append(list, large(t, dir, i))
	}
	writeDir(t, dir, map[string]string{"index.json": `{"schemaVersion":2,"manifests":[` + strings.Join(list, ",") + `]}`})

	if _, err := media.Open(t.Context(), dir, ""); !errors.Is(err, survey.ErrTooMuch) {
		t.Errorf("the only image of an index full of large manifests: %v", err)
	}
	layouts, err := media.Open(t.Context(), dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer layouts[0].Close()
	subject := ocispec.Descriptor{Digest: digest.FromString(manifest()), Size: int64(len(manifest()))}
	if err := referrers(t.Context(), layouts[0], subject); !errors.Is(err, survey.ErrTooMuch) {
		t.Errorf("referrers among large manifests: %v", err)
	}
}

// TestStrangers: a large tar file that is no layout does not use up the budget of the one behind it.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	var backup bytes.Buffer
	w := tar.NewWriter(&backup)
	for i := range 70_000 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("home/%d", i), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"backup.tar": backup.Bytes(), "os.tar": tarOf(t, good())} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	layouts, err := media.Open(t.Context(), dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layouts {
		l.Close()
	}
}

// referrers lists all of them and returns what ended that.
func referrers(ctx context.Context, l *media.Layout, subject ocispec.Descriptor) (last error) {
	for _, err := range l.Referrers(ctx, subject, "") {
		last = err
	}
	return last
}

// TestContext: every method that reads the medium ends with its context.
func TestContext(t *testing.T) {
	dir := t.TempDir()
	writeDir(t, dir, good())
	cause := errors.New("cause")
	done, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := media.Open(done, dir, "v1"); !errors.Is(err, cause) {
		t.Errorf("Open: %v", err)
	}
	file := filepath.Join(dir, "x.tar")
	if err := os.WriteFile(file, tarOf(t, good()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := media.OpenTar(done, f, "v1"); !errors.Is(err, cause) {
		t.Errorf("OpenTar: %v", err)
	}
	layouts, err := media.Open(t.Context(), dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer layouts[0].Close()
	d := ocispec.Descriptor{Digest: digest.FromString(manifest()), Size: int64(len(manifest()))}
	if err := referrers(done, layouts[0], d); !errors.Is(err, cause) {
		t.Errorf("Referrers: %v", err)
	}
	if _, _, err := layouts[0].Manifest(done, "v1"); !errors.Is(err, cause) {
		t.Errorf("Manifest: %v", err)
	}
	if _, err := layouts[0].Bytes(done, d, 1<<20); !errors.Is(err, cause) {
		t.Errorf("Bytes: %v", err)
	}
}

// TestHeap has media that are full of what a search looks at.
func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 16 << 20, PerByte: 8}
	open := func(dir string) func() {
		return func() {
			layouts, err := media.Open(t.Context(), dir, "")
			for _, l := range layouts {
				err = errors.Join(err, l.Close())
			}
			if err == nil {
				t.Error("a hostile medium was taken")
			}
		}
	}
	for _, form := range []string{`{"schemaVersion":2,"manifests":%s}`, `{"schemaVersion":2,"manifests":[{"annotations":%s}]}`} {
		dir := t.TempDir()
		bound.JSON(t, form, 1<<20, func(raw []byte) {
			writeDir(t, dir, map[string]string{"oci-layout": marker, "index.json": string(raw)})
			open(dir)()
		})
	}
	names := t.TempDir()
	for i := range 1 << 13 {
		if err := os.WriteFile(filepath.Join(names, fmt.Sprintf("%0200d.tar", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bound.Peak(t, "tar files in a directory", 0, open(names))

	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 70_000 {
		if err := w.WriteHeader(&tar.Header{Name: blobPath(fmt.Sprint(i)), ModTime: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := t.TempDir()
	if err := os.WriteFile(filepath.Join(archive, "a.tar"), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	heaptest.Bound{Fixed: 48 << 20}.Peak(t, "entries of a tar file", b.Len(), open(archive))
}
