package qcow2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const maxDisk = 64 << 20

// disk is content of every sort: random, repetitive, holes, an odd end.
func disk() []byte {
	b := make([]byte, 3<<20+512)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b[:700<<10])
	copy(b[1<<20:], bytes.Repeat([]byte("repetitive "), 20000))
	_, _ = r.Read(b[len(b)-700:])
	return b
}

func copyOf(b []byte) ([]byte, error) {
	i, err := Open(bytes.NewReader(b), int64(len(b)), maxDisk)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = i.Copy(context.Background(), &out)
	return out.Bytes(), err
}

// convert has qemu-img make an image.
func convert(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip("qemu-img is not installed")
	}
	raw, img := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "qcow2")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	args = append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, img)
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestQemuImg(t *testing.T) {
	want := disk()
	for name, args := range map[string][]string{
		"v2":             {"-o", "compat=0.10"},
		"v3":             nil,
		"small clusters": {"-o", "cluster_size=512"},
		"large clusters": {"-o", "cluster_size=2M"},
		"preallocated":   {"-o", "preallocation=metadata"},
		"deflate":        {"-c"},
		"zstd":           {"-c", "-o", "compression_type=zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			b := convert(t, want, args...)
			got, err := copyOf(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes differ from the disk's %d", len(got), len(want))
			}
			for _, n := range []int{10, 80, len(b) / 3} {
				if got, err := copyOf(b[:n]); err == nil && bytes.Equal(got, want) {
					t.Errorf("the first %d bytes of the file give the whole disk", n)
				}
			}
		})
	}
}

// header makes a version 3 header for a disk of one cluster of 64 KiB.
func header(edit func([]byte)) []byte {
	b := make([]byte, 4<<16)
	be := binary.BigEndian
	copy(b, Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<16)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 1<<16)
	be.PutUint32(b[100:], headerV3)
	be.PutUint64(b[1<<16:], 2<<16)
	be.PutUint64(b[2<<16:], 3<<16)
	copy(b[3<<16:], "content")
	if edit != nil {
		edit(b)
	}
	return b
}

func TestRefuse(t *testing.T) {
	be := binary.BigEndian
	if got, err := copyOf(header(nil)); err != nil || len(got) != 1<<16 || !bytes.HasPrefix(got, []byte("content")) {
		t.Fatalf("the test's header is wrong: %d bytes, %v", len(got), err)
	}
	for name, tc := range map[string]struct {
		edit    func([]byte)
		want    error
		message string
	}{
		"magic":          {func(b []byte) { b[0] = 'q' }, ErrFormat, "magic"},
		"version":        {func(b []byte) { b[7] = 4 }, ErrFormat, "version 4"},
		"small clusters": {func(b []byte) { b[23] = 8 }, ErrFormat, "clusters of 2^8"},
		"large clusters": {func(b []byte) { b[23] = 22 }, ErrFormat, "clusters of 2^22"},
		"backing file":   {func(b []byte) { b[15] = 104 }, ErrUnsupported, "backing file"},
		"encryption":     {func(b []byte) { b[35] = 1 }, ErrUnsupported, "encrypted"},
		"corrupt":        {func(b []byte) { b[79] = 2 }, ErrUnsupported, "incompatible features 0x2"},
		"external data":  {func(b []byte) { b[79] = 4 }, ErrUnsupported, "incompatible features 0x4"},
		"compression":    {func(b []byte) { b[79] = 8; b[103] = 112; b[104] = 2 }, ErrUnsupported, "compression type 2"},
		"no compression": {func(b []byte) { b[79] = 8; b[103] = 104 }, ErrUnsupported, "header of 104 bytes"},
		"its type":       {func(b []byte) { b[79] = 8; b[103] = 105 }, nil, ""},
		"size":           {func(b []byte) { b[24] = 0xff }, ErrUnsupported, "allowed are 67108864"},
		"large":          {func(b []byte) { be.PutUint64(b[24:], maxDisk) }, nil, ""},
		"too large":      {func(b []byte) { be.PutUint64(b[24:], maxDisk+1) }, ErrUnsupported, "a disk of 67108865 bytes"},
		"short L1":       {func(b []byte) { b[39] = 0 }, ErrFormat, "L1 table of 0 entries"},
		"long L1":        {func(b []byte) { be.PutUint32(b[36:], maxL1) }, nil, ""},
		"too long L1":    {func(b []byte) { be.PutUint32(b[36:], maxL1+1) }, ErrFormat, "L1 table of 4194305 entries"},
		"L1 beyond":      {func(b []byte) { b[42] = 1 }, ErrFormat, "L1 table at"},
		"L1 at the end":  {func(b []byte) { be.PutUint64(b[40:], 4<<16) }, ErrFormat, "L1 table at 262144"},
		"L1 unaligned":   {func(b []byte) { be.PutUint64(b[40:], 1<<16+512) }, ErrFormat, "L1 table at 66048"},
		"L1 negative":    {func(b []byte) { b[40] = 0x80 }, ErrFormat, "L1 table at"},
		"L2 beyond":      {func(b []byte) { b[1<<16+2] = 1 }, ErrFormat, "L2 table: malformed"},
		"content beyond": {func(b []byte) { b[2<<16+2] = 1 }, ErrFormat, "the file has 262144 bytes"},
		"content at end": {func(b []byte) { be.PutUint64(b[2<<16:], 4<<16) }, ErrFormat, "cluster at 262144"},
		"not aligned":    {func(b []byte) { b[2<<16+6] = 2 }, ErrFormat, "not aligned"},
		"bad deflate":    {func(b []byte) { be.PutUint64(b[2<<16:], flagCompressed|3<<16) }, ErrFormat, "compressed cluster at"},
		"deflate beyond": {func(b []byte) { be.PutUint64(b[2<<16:], flagCompressed|5<<16) }, ErrFormat, "compressed cluster at 327680"},
		"deflate at end": {func(b []byte) { be.PutUint64(b[2<<16:], flagCompressed|4<<16) }, ErrFormat, "compressed cluster at 262144"},
	} {
		_, err := copyOf(header(tc.edit))
		if !errors.Is(err, tc.want) || err != nil && !strings.Contains(err.Error(), tc.message) {
			t.Errorf("%s: %v, want %v with %q", name, err, tc.want, tc.message)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	i, err := Open(bytes.NewReader(header(nil)), 4<<16, maxDisk)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Copy(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestEdges has files that end just behind what is needed, or a byte before.
func TestEdges(t *testing.T) {
	be := binary.BigEndian
	empty := func(b []byte) { // a version 2 header, of a disk of nothing
		b[7] = 2
		clear(b[24:])
	}
	for name, tc := range map[string]struct {
		edit func([]byte)
		size int // of the file
		want string
		ok   bool
	}{
		"a header":          {empty, headerV2, "", true},
		"no header":         {empty, headerV2 - 1, "", false},
		"a byte of content": {nil, 3<<16 + 1, "c", true},
		"no content":        {nil, 3 << 16, "", false},
		"no L1":             {nil, 1<<16 + 7, "", false},
		"L1 alone":          {func(b []byte) { clear(b[1<<16:]) }, 1<<16 + 8, "", true},
		"zeros":             {func(b []byte) { b[2<<16+7] = flagZero }, 4 << 16, "", true},
		"no zeros yet":      {func(b []byte) { b[7], b[2<<16+7] = 2, flagZero }, 4 << 16, "content", true},
	} {
		b := header(tc.edit)
		size := int(be.Uint64(b[24:]))
		got, err := copyOf(b[:tc.size])
		if (err == nil) != tc.ok || tc.ok && (len(got) != size || string(bytes.TrimRight(got, "\x00")) != tc.want) {
			t.Errorf("%s: %d bytes, %.10q, %v", name, len(got), got, err)
		}
	}
}

// limited counts what is read, and fails far beyond what one pass needs.
type limited struct {
	*bytes.Reader
	read int
}

func (l *limited) ReadAt(p []byte, off int64) (int, error) {
	l.read += len(p)
	return l.Reader.ReadAt(p, off)
}

// FuzzCopy checks that a disk has exactly the size its header says, and that
// no read is larger than a cluster and a sector.
func FuzzCopy(f *testing.F) {
	f.Add(header(nil)[:2<<16+64])
	small := func(b []byte) { // clusters of 512 bytes
		b[23], b[26], b[31] = 9, 0, 0
		binary.BigEndian.PutUint64(b[24:], 1000)
		binary.BigEndian.PutUint64(b[40:], 512)
		binary.BigEndian.PutUint64(b[512:], 1024)
		binary.BigEndian.PutUint64(b[1024:], 1536)
		binary.BigEndian.PutUint64(b[1032:], flagCompressed|1536)
	}
	f.Add(header(small)[:2048])
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &limited{Reader: bytes.NewReader(b)}
		i, err := Open(in, int64(len(b)), 1<<20)
		if err != nil {
			return
		}
		var n counter
		err = i.Copy(context.Background(), &n)
		if int64(n) > i.size || err == nil && int64(n) != i.size {
			t.Fatalf("%d of %d bytes, %v", n, i.size, err)
		}
		// A cluster is at most read once, with its table, and a sector more if compressed.
		clusters := int(i.size>>i.bits) + 1
		tables := int(i.entries)
		if limit := 200 + 8*tables + (tables+clusters)<<i.bits + clusters*sector; in.read > limit {
			t.Fatalf("%d bytes read, limit %d", in.read, limit)
		}
	})
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }
