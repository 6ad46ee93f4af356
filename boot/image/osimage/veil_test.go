package osimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// marked is a disk image that says in every 16 bytes of it who made it, so that any piece of it can be found.
func marked(who string, size int) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "%-8.8s%08x", who, b.Len())
	}
	return b.Bytes()[:size]
}

// untrue is a place that streams something else than what was asked for.
type untrue struct {
	blobs
	content []byte
	end     error // how the stream breaks off
	says    error // what becomes of it; nil as long as no one noticed
	panics  bool
}

func (u untrue) Stream(_ context.Context, _ ocispec.Descriptor, take func(io.Reader) error) error {
	r := io.Reader(bytes.NewReader(u.content))
	if u.end != nil {
		r = io.MultiReader(r, errReader{u.end, u.panics})
	}
	return errors.Join(take(r), u.says)
}

type errReader struct {
	err    error
	panics bool
}

func (r errReader) Read([]byte) (int, error) {
	if r.panics {
		panic(r.err)
	}
	return 0, r.err
}

// TestRefusedDiskLeavesNothing has a mirror send another disk image than the one that is wanted, in every way that
// it is refused. Not one sector of it may be on the disk, and nothing that the disk held before may be bootable.
func TestRefusedDiskLeavesNothing(t *testing.T) {
	const size = 5<<20 + 512
	genuine, evil := marked("genuine", size), marked("evil", size)
	errCut := errors.New("the link was cut")
	for name, tc := range map[string]struct {
		place     untrue
		annotated []byte // what the annotations describe; nil without any
	}{
		"wrong digest":                   {untrue{content: evil, says: fetch.ErrDigest}, genuine},
		"wrong digest, not announced":    {untrue{content: evil, says: fetch.ErrDigest}, nil},
		"cut":                            {untrue{content: evil[:3<<20+77], end: errCut}, genuine},
		"cut at once":                    {untrue{content: evil[:4096], end: errCut}, genuine},
		"a parser that panics":           {untrue{content: evil[:3<<20], end: errCut, panics: true}, genuine},
		"too large":                      {untrue{content: marked("evil", 9<<20)}, nil},
		"not what its annotations claim": {untrue{content: evil}, genuine},
	} {
		t.Run(name, func(t *testing.T) {
			disk := emptyDisk(t, 8<<20)
			if _, err := disk.WriteAt(marked("before", 8<<20), 0); err != nil {
				t.Fatal(err)
			}
			store := blobs{}
			var annotations map[string]string
			if tc.annotated != nil {
				annotations = map[string]string{AnnotationRawSHA256: art("", tc.annotated).SHA256, AnnotationRawSize: strconv.Itoa(size)}
			}
			layer := store.add(MediaTypeRaw, genuine, annotations)
			tc.place.blobs = store
			m := manifestOf(t, ArtifactDisk, store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil), nil, layer, store.add(MediaTypeKernel, testKernel(), nil))
			err := func() (err error) {
				defer func() {
					if p := recover(); p != nil {
						err = fmt.Errorf("panic: %v", p)
					}
				}()
				_, err = FromManifest(t.Context(), m, tc.place, Options{Disk: disk, MemAvailable: plenty})
				return err
			}()
			if err == nil {
				t.Fatal("it was accepted")
			}
			wantNothing(t, disk.Name())
		})
	}
}

// wantNothing reads a disk of 8 MiB that an image was refused for.
func wantNothing(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(b, []byte("evil ")); at >= 0 {
		t.Errorf("the refused image is on the disk, at byte %d", at)
	}
	if bytes.Equal(b, marked("before", len(b))) {
		return // too little arrived to touch it
	}
	for _, end := range [][]byte{b[:1<<20], b[len(b)-1<<20:]} {
		if bytes.Contains(end, []byte("before ")) {
			t.Errorf("an end of the disk holds what it held before")
		}
	}
}

// TestRefusedDiskWithTools asks wipefs and blkid what they find on a disk whose image was refused: it had a partition
// table at both ends, and file systems of which there are copies all over the disk.
func TestRefusedDiskWithTools(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1) // chance would find the two bytes of some magic number now and then
	evil := toolDisk(t)
	content, err := os.ReadFile(evil)
	if err != nil {
		t.Fatal(err)
	}
	disk := emptyDisk(t, int64(len(content)))
	if _, err := disk.WriteAt(content, 0); err != nil { // what was there before looks the same
		t.Fatal(err)
	}
	store := blobs{}
	layer := store.add(MediaTypeRaw, content, map[string]string{AnnotationRawSHA256: strings.Repeat("0", 64), AnnotationRawSize: strconv.Itoa(len(content))})
	m := manifestOf(t, ArtifactDisk, store.add(ocispec.MediaTypeEmptyJSON, []byte("{}"), nil), nil, layer, store.add(MediaTypeKernel, testKernel(), nil))
	place := untrue{blobs: store, content: content, says: fetch.ErrDigest}
	if _, err := FromManifest(t.Context(), m, place, Options{Disk: disk, MemAvailable: plenty}); err == nil {
		t.Fatal("it was accepted")
	}
	for _, offset := range toolOffsets {
		out, err := exec.Command("blkid", "--probe", "--offset", strconv.Itoa(offset), disk.Name()).CombinedOutput()
		if len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("blkid at %d: %v\n%s", offset, err, out)
		}
	}
	if out := tool(t, "wipefs", "--no-act", disk.Name()); strings.TrimSpace(out) != "" {
		t.Errorf("wipefs finds:\n%s", out)
	}
	if out, err := exec.Command("sfdisk", "--dump", disk.Name()).CombinedOutput(); err == nil {
		t.Errorf("sfdisk finds:\n%s", out)
	}
	if at := superblocks(t, disk.Name()); len(at) > 0 {
		t.Errorf("ext4 superblocks at %v", at)
	}
	if at := superblocks(t, evil); len(at) < 2 {
		t.Errorf("the image itself has only the superblocks %v: the test cannot fail", at)
	}
}

// Where toolDisk has its partitions, in bytes.
var toolOffsets = []int{0, 1 << 20, 4 << 20, 44 << 20}

// toolDisk makes a disk of 64 MiB with GPT and protective MBR, a FAT, an ext4 and a LUKS partition.
func toolDisk(t *testing.T) string {
	t.Helper()
	disk := emptyDisk(t, 64<<20).Name()
	script := "label: gpt\nstart=2048, size=6144, type=U\nstart=8192, size=81920\nstart=90112, size=36864\n"
	cmd := exec.Command("sfdisk", "--quiet", disk)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		missingTool(t, err, out)
	}
	tool(t, "mkfs.vfat", "--offset=2048", "-n", "EVIL", disk, "3072")
	tool(t, "mkfs.ext4", "-q", "-F", "-b", "1024", "-L", "EVIL", "-E", "offset=4194304", disk, "40960")
	luks := filepath.Join(t.TempDir(), "luks")
	if err := errors.Join(os.WriteFile(luks, nil, 0o600), os.Truncate(luks, 18<<20)); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", luks)
	cmd.Stdin = strings.NewReader("evil")
	if out, err := cmd.CombinedOutput(); err != nil {
		missingTool(t, err, out)
	}
	from, err := os.ReadFile(luks)
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := to.WriteAt(from, int64(toolOffsets[3])); err != nil {
		t.Fatal(err)
	}
	return disk
}

// superblocks finds the superblocks of an ext4 with blocks of 1 KiB, copies included.
func superblocks(t *testing.T, path string) (at []int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1024 <= len(b); i += 1024 {
		if bytes.Equal(b[i+56:i+58], []byte{0x53, 0xef}) && bytes.Contains(b[i+0x78:i+0x88], []byte("EVIL")) {
			at = append(at, i)
		}
	}
	return at
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		missingTool(t, err, out)
	}
	return string(out)
}

func missingTool(t *testing.T, err error, out []byte) {
	t.Helper()
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("SEALBOOT_TEST_ALL") != "1" {
		t.Skip(err)
	}
	t.Fatalf("%v\n%s", err, out)
}
