package osimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
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
				var checked, of int64
				i, err := FromManifest(context.Background(), m, store, Options{Disk: disk, MemAvailable: plenty, Checked: func(done, total int64) { checked, of = done, total }})
				if err != nil {
					t.Fatalf("%s: %v", boot, err)
				}
				want := []event.Artifact{art("disk", raw), {Role: "verity-root", SHA256: root}, art("kernel", testKernel()), art("cmdline", []byte(line))}
				if diff := cmp.Diff(want, i.Descriptor.Artifacts); diff != "" {
					t.Error(diff)
				}
				if all := int64(len(raw)); checked != all || of != all {
					t.Errorf("%s: told of %d bytes of %d, want %d", boot, checked, of, all)
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
	raw := bytes.Repeat([]byte("a disk, "), 1024)
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
	zero := strings.Repeat("0", 64)
	large := layer(AnnotationRawSHA256, zero, AnnotationRawSize, "16777216")
	large.Digest = digest.FromString("never fetched")
	packed := layer()
	packed.MediaType += "+lzma"
	silent := store.add(MediaTypeRaw+"+gzip", packedDisks(t, raw)[MediaTypeRaw+"+gzip"], nil) // its size is not known before
	for name, tc := range map[string]struct {
		layers  []ocispec.Descriptor
		size    int64 // of the disk
		want    error
		message string
	}{
		"larger than the disk, by its annotations": {[]ocispec.Descriptor{large, kernel}, 4 << 20, ErrInvalid, "needs 16 MiB, disk"},
		"as large as the disk":                     {[]ocispec.Descriptor{layer(), kernel}, 8192, nil, ""},
		"found to be as large":                     {[]ocispec.Descriptor{silent, kernel}, 8192, nil, ""},
		"found to be larger":                       {[]ocispec.Descriptor{silent, kernel}, 8191, ErrInvalid, "needs 1 MiB, disk"},
		"no disk":                                  {[]ocispec.Descriptor{layer(), kernel}, 0, ErrUnsupported, "no disk to write it to"},
		"no kernel":                                {[]ocispec.Descriptor{layer()}, 8192, ErrUnsupported, "without a kernel"},
		"too small":                                {[]ocispec.Descriptor{layer(), kernel}, 4096, ErrInvalid, "needs 1 MiB, disk"},
		"other content":                            {[]ocispec.Descriptor{layer(AnnotationRawSHA256, zero, AnnotationRawSize, "8192"), kernel}, 8192, ErrInvalid, "its annotations say 8192 and 0000"},
		"no size":                                  {[]ocispec.Descriptor{layer(AnnotationRawSHA256, zero, AnnotationRawSize, "0"), kernel}, 8192, ErrInvalid, AnnotationRawSize},
		"half announced":                           {[]ocispec.Descriptor{layer(AnnotationRawSize, "8192"), kernel}, 8192, ErrInvalid, AnnotationRawSHA256},
		"idle verity":                              {[]ocispec.Descriptor{layer(AnnotationVerity, zero), kernel}, 8192, ErrInvalid, "that the command line passes on"},
		"unknown compression":                      {[]ocispec.Descriptor{packed, kernel}, 8192, ErrUnsupported, `compression "lzma"`},
	} {
		var disk *os.File
		if tc.size > 0 {
			disk = emptyDisk(t, tc.size)
		}
		i, err := FromManifest(context.Background(), manifestOf(t, ArtifactDisk, empty, nil, tc.layers...), store, Options{Disk: disk, MemAvailable: plenty})
		wantRefused(t, name, err, tc.want, tc.message)
		if err == nil {
			i.Close()
		}
	}
	if _, err := unpackDisk(t.Context(), MediaTypeQcow2, bytes.NewReader(raw), &diskWriter{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a stream of a format that has no order: %v", err)
	}
}

// forgetful is a disk that has lost a byte by the time that everything is written.
type forgetful struct {
	blobs
	disk *os.File
}

func (f forgetful) Stream(ctx context.Context, d ocispec.Descriptor, take func(io.Reader) error) error {
	if err := f.blobs.Stream(ctx, d, take); err != nil {
		return err
	}
	_, err := f.disk.WriteAt([]byte("x"), 1<<20+100)
	return err
}

func TestForgetfulDisk(t *testing.T) {
	store := blobs{}
	disk := emptyDisk(t, 3<<20)
	m := manifestOf(t, ArtifactDisk, store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil), nil,
		store.add(MediaTypeRaw, []byte(strings.Repeat("a disk, ", 384<<10)), nil), store.add(MediaTypeKernel, testKernel(), nil))
	if _, err := FromManifest(t.Context(), m, forgetful{store, disk}, Options{Disk: disk, MemAvailable: plenty}); err == nil || !strings.Contains(err.Error(), "does not give back") {
		t.Errorf("error is %v, want one that blames the disk", err)
	}
}

// TestDryRun describes a disk image as if it were written, and writes nothing.
func TestDryRun(t *testing.T) {
	raw := bytes.Repeat([]byte("raw"), 1024)
	for sum, want := range map[string]error{art("", raw).SHA256: nil, strings.Repeat("0", 64): ErrInvalid} {
		store := blobs{}
		layer := store.add(MediaTypeRaw, raw, map[string]string{AnnotationRawSHA256: sum, AnnotationRawSize: "3072"})
		m := manifestOf(t, ArtifactDisk, store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil), nil, layer, store.add(MediaTypeKernel, testKernel(), nil))
		disk := emptyDisk(t, 4096)
		for _, d := range []*os.File{nil, disk} {
			i, err := FromManifest(t.Context(), m, store, Options{Disk: d, DryRun: true, MemAvailable: plenty})
			wantRefused(t, sum, err, want, "its annotations say")
			if err != nil {
				continue
			}
			if diff := cmp.Diff(art("disk", raw), i.Descriptor.Artifacts[0]); diff != "" {
				t.Error(diff)
			}
			i.Close()
		}
		if got, err := os.ReadFile(disk.Name()); err != nil || !bytes.Equal(got, make([]byte, 4096)) {
			t.Errorf("it was written (%v)", err)
		}
	}
}
