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
		edit func([]byte)
		want error
	}{
		"magic":          {func(b []byte) { b[0] = 'q' }, ErrFormat},
		"version":        {func(b []byte) { b[7] = 4 }, ErrFormat},
		"cluster size":   {func(b []byte) { b[23] = 22 }, ErrFormat},
		"backing file":   {func(b []byte) { b[15] = 104 }, ErrUnsupported},
		"encryption":     {func(b []byte) { b[35] = 1 }, ErrUnsupported},
		"corrupt":        {func(b []byte) { b[79] = 2 }, ErrUnsupported},
		"external data":  {func(b []byte) { b[79] = 4 }, ErrUnsupported},
		"compression":    {func(b []byte) { b[79] = 8; b[103] = 112; b[104] = 2 }, ErrUnsupported},
		"size":           {func(b []byte) { b[24] = 0xff }, ErrUnsupported},
		"short L1":       {func(b []byte) { b[39] = 0 }, ErrFormat},
		"L1 beyond":      {func(b []byte) { b[42] = 1 }, ErrFormat},
		"L1 negative":    {func(b []byte) { b[40] = 0x80 }, ErrFormat},
		"L2 beyond":      {func(b []byte) { b[1<<16+2] = 1 }, ErrFormat},
		"content beyond": {func(b []byte) { b[2<<16+2] = 1 }, ErrFormat},
		"not aligned":    {func(b []byte) { b[2<<16+6] = 2 }, ErrFormat},
		"bad deflate":    {func(b []byte) { be.PutUint64(b[2<<16:], flagCompressed|3<<16) }, ErrFormat},
	} {
		if _, err := copyOf(header(tc.edit)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
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
