package osimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/sealboot/sealboot/measure/event"
)

// packedDisks is one raw disk in every form that is read.
func packedDisks(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	var gz, xzb bytes.Buffer
	gw := gzip.NewWriter(&gz)
	xw, err := xz.NewWriter(&xzb)
	if err != nil {
		t.Fatal(err)
	}
	_, gerr := gw.Write(raw)
	_, xerr := xw.Write(raw)
	zw, zerr := zstd.NewWriter(nil)
	if err := errors.Join(gerr, xerr, zerr, gw.Close(), xw.Close()); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{
		MediaTypeRaw: raw, MediaTypeRaw + "+gzip": gz.Bytes(), MediaTypeRaw + "+zstd": zw.EncodeAll(raw, nil), MediaTypeRaw + "+xz": xzb.Bytes(),
	}
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		return out
	}
	from, to := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "qcow2")
	if err := os.WriteFile(from, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command(tool, "convert", "-c", "-O", "qcow2", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	if out[MediaTypeQcow2], err = os.ReadFile(to); err != nil {
		t.Fatal(err)
	}
	return out
}

func emptyDisk(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDisk(t *testing.T) {
	raw := bytes.Repeat([]byte("a disk, sector by sector. "), 2<<20/26)
	raw = append(raw, make([]byte, 512-len(raw)%512)...)
	root := strings.Repeat("ab", 32)
	line := "root=/dev/vda roothash=" + root
	for mediaType, b := range packedDisks(t, raw) {
		t.Run(mediaType, func(t *testing.T) {
			store := blobs{}
			empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
			layer := store.add(mediaType, b, map[string]string{
				AnnotationRawSHA256: art("", raw).SHA256, AnnotationRawSize: strconv.Itoa(len(raw)), AnnotationVerity: root,
			})
			m := manifestOf(t, ArtifactDisk, empty, map[string]string{AnnotationCmdline: line}, layer, store.add(MediaTypeKernel, testKernel(), nil))
			disk := emptyDisk(t, int64(len(raw))+4096)
			for _, boot := range []string{"first", "second, nothing to fetch"} {
				i, err := FromManifest(context.Background(), m, store, Options{Disk: disk, MemAvailable: plenty})
				if err != nil {
					t.Fatalf("%s: %v", boot, err)
				}
				want := []event.Artifact{art("disk", raw), {Role: "verity-root", SHA256: root}, art("kernel", testKernel()), art("cmdline", []byte(line))}
				if diff := cmp.Diff(want, i.Descriptor.Artifacts); diff != "" {
					t.Error(diff)
				}
				if anew := boot == "first"; anew != slices.ContainsFunc(i.Notes, func(n string) bool { return strings.Contains(n, "written anew") }) {
					t.Errorf("%s: notes %q", boot, i.Notes)
				}
				if err := i.Close(); err != nil {
					t.Error(err)
				}
				delete(store, layer.Digest)
			}
			got, err := os.ReadFile(disk.Name())
			if err != nil || !bytes.Equal(got[:len(raw)], raw) {
				t.Errorf("the disk holds something else (%v)", err)
			}
			// A changed disk would be written again, if its blob were still there.
			if _, err := disk.WriteAt([]byte("evil"), 1000); err != nil {
				t.Fatal(err)
			}
			if _, err := FromManifest(context.Background(), m, store, Options{Disk: disk, MemAvailable: plenty}); err == nil || !strings.Contains(err.Error(), "does not hold the image") {
				t.Errorf("a changed disk: %v", err)
			}
		})
	}
}

func TestDiskRefuses(t *testing.T) {
	raw := make([]byte, 8192)
	store := blobs{}
	empty := store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil)
	kernel := store.add(MediaTypeKernel, testKernel(), nil)
	layer := func(annotations ...string) ocispec.Descriptor {
		a := map[string]string{}
		for i := 0; i < len(annotations); i += 2 {
			a[annotations[i]] = annotations[i+1]
		}
		return store.add(MediaTypeRaw, raw, a)
	}
	large := layer(AnnotationRawSHA256, strings.Repeat("0", 64), AnnotationRawSize, "16777216")
	large.Digest = digest.FromString("never fetched")
	for name, tc := range map[string]struct {
		layers []ocispec.Descriptor
		size   int64
		want   error
	}{
		"larger than the disk, by its annotations": {[]ocispec.Descriptor{large, kernel}, 4 << 20, &DiskError{Need: 16 << 20, Available: 4 << 20}},
		"no disk":        {[]ocispec.Descriptor{layer(), kernel}, 0, ErrUnsupported},
		"no kernel":      {[]ocispec.Descriptor{layer()}, 8192, ErrUnsupported},
		"too small":      {[]ocispec.Descriptor{layer(), kernel}, 4096, ErrInvalid},
		"other content":  {[]ocispec.Descriptor{layer(AnnotationRawSHA256, strings.Repeat("0", 64), AnnotationRawSize, "8192"), kernel}, 8192, ErrInvalid},
		"half announced": {[]ocispec.Descriptor{layer(AnnotationRawSize, "8192"), kernel}, 8192, ErrInvalid},
		"idle verity":    {[]ocispec.Descriptor{layer(AnnotationVerity, strings.Repeat("0", 64)), kernel}, 8192, ErrInvalid},
	} {
		var disk *os.File
		if tc.size > 0 {
			disk = emptyDisk(t, tc.size)
		}
		_, err := FromManifest(context.Background(), manifestOf(t, ArtifactDisk, empty, nil, tc.layers...), store, Options{Disk: disk, MemAvailable: plenty})
		var got, want *DiskError
		if errors.As(tc.want, &want) {
			if !errors.As(err, &got) || got.Need != want.Need || got.Available != want.Available || !strings.Contains(err.Error(), "needs 16 MiB") || !strings.Contains(err.Error(), "has 4 MiB") {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			continue
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
