package xzstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ulikunitz/xz"
)

// packed is what the xz tool makes of content.
func packed(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("xz")
	if err != nil {
		if os.Getenv("SEALBOOT_TEST_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(tool, append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sample() []byte {
	b := []byte(strings.Repeat("some text that repeats itself, and then not: ", 20000))
	for i := 100_000; i < 300_000; i++ { // does not compress: plain chunks
		b[i] = byte(i * i >> 7)
	}
	return b
}

func TestTool(t *testing.T) {
	want := sample()
	one := packed(t, want)
	for name, in := range map[string][]byte{
		"default": one, "level 9": packed(t, want, "-9"), "no check": packed(t, want, "--check=none"), "SHA-256": packed(t, want, "--check=sha256"),
		"several blocks": packed(t, want, "--block-size=100000"), "two threads": packed(t, want, "-T2", "--block-size=100000"),
		"two streams": append(packed(t, want[:500_000]), packed(t, want[500_000:])...),
		"padding":     append(bytes.Clone(one), make([]byte, 8)...),
	} {
		var got bytes.Buffer
		if err := Copy(&got, iotest.HalfReader(bytes.NewReader(in))); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
	}
	if err := Copy(io.Discard, bytes.NewReader(packed(t, nil))); err != nil {
		t.Errorf("nothing: %v", err)
	}
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"large dictionary": {packed(t, want, "--lzma2=dict=512MiB"), ErrUnsupported},
		"other filter":     {packed(t, want, "--x86", "--lzma2"), ErrUnsupported},
		"trailing bytes":   {append(bytes.Clone(one), "abc"...), ErrFormat},
		"another stream":   {append(bytes.Clone(one), "garbage garbage"...), ErrFormat},
		"not xz":           {[]byte("PK\x03\x04 and so on"), ErrFormat},
		"empty":            {nil, io.ErrUnexpectedEOF},
	} {
		if err := Copy(io.Discard, bytes.NewReader(tc.in)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for n := range one {
		if n > 40 && n < len(one)-40 {
			continue
		}
		if err := Copy(io.Discard, bytes.NewReader(one[:n])); err == nil {
			t.Errorf("cut after %d bytes: no error", n)
		}
	}
}

// TestDictionary has a block that asks for 4 GiB: nothing of the kind is allocated.
func TestDictionary(t *testing.T) {
	in := packed(t, []byte("text"))
	header := in[12:24]
	const dict = 4 // size, flags, filter, its size
	header[dict] = 40
	binary.LittleEndian.PutUint32(header[8:], crc32.ChecksumIEEE(header[:8]))
	if allocs := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if err := Copy(io.Discard, bytes.NewReader(in)); !errors.Is(err, ErrUnsupported) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp(); allocs > 1<<20 {
		t.Errorf("%d bytes were allocated", allocs)
	}
}

// FuzzCopy compares with the reader of the library: where both read something,
// they read the same.
func FuzzCopy(f *testing.F) {
	f.Add(packed(f, []byte("some text")))
	f.Add(packed(f, []byte("some text, some text, some text"), "--block-size=8", "--check=none"))
	f.Add(append(packed(f, []byte("a")), packed(f, nil)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		const most = 1 << 20
		var got bytes.Buffer
		if err := Copy(&limited{&got, most}, bytes.NewReader(in)); err != nil {
			return
		}
		// The library checks sums of content that are not checked here.
		r, err := xz.NewReader(bytes.NewReader(in))
		if err != nil {
			return
		}
		want, err := io.ReadAll(io.LimitReader(r, most))
		if !bytes.HasPrefix(got.Bytes(), want) || err == nil && len(want) != got.Len() {
			t.Errorf("%d bytes, the library reads %d (%v)", got.Len(), len(want), err)
		}
	})
}

// limited fails when it gets more than n bytes.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.n -= len(b); l.n < 0 {
		return 0, errors.New("enough")
	}
	return l.w.Write(b)
}
