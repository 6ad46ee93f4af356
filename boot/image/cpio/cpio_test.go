package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type member struct {
	Header
	Body string
}

func pack(t testing.TB, members []member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, m := range members {
		m.Size = uint32(len(m.Body))
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := int64(buf.Len()); got != w.Offset() {
		t.Fatalf("Offset() = %d after %d bytes", w.Offset(), got)
	}
	return buf.Bytes()
}

func unpack(r io.Reader) ([]member, error) {
	var all []member
	cr := NewReader(r)
	for {
		h, err := cr.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		body, err := io.ReadAll(cr)
		if err != nil {
			return all, err
		}
		all = append(all, member{*h, string(body)})
	}
}

func sample() []member {
	return []member{
		{Header{Name: "dir", Ino: 1, Mode: ModeDir | 0o755, Nlink: 2, ModTime: 1700000000}, ""},
		{Header{Name: "dir/file", Ino: 2, Mode: ModeRegular | 0o4755, UID: 7, GID: 8, Nlink: 2, Size: 5}, "hello"},
		{Header{Name: "dir/link", Ino: 2, Mode: ModeRegular | 0o4755, UID: 7, GID: 8, Nlink: 2}, ""},
		{Header{Name: "sym", Ino: 3, Mode: ModeSymlink | 0o777, Nlink: 1, Size: 8}, "dir/file"},
		{Header{Name: "null", Ino: 4, Mode: ModeChar | 0o666, Nlink: 1, RdevMajor: 1, RdevMinor: 3}, ""},
	}
}

func TestRoundTrip(t *testing.T) {
	archive := pack(t, sample())
	if len(archive)%Align != 0 {
		t.Errorf("archive of %d bytes is not padded to %d", len(archive), Align)
	}
	two := io.MultiReader(bytes.NewReader(archive), bytes.NewReader(archive))
	for range 2 { // the first archive leaves the reader at the second
		got, err := unpack(two)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sample(), got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestGNU has another implementation list the archive.
func TestGNU(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	cmd := exec.Command(tool, "-itv", "--numeric-uid-gid", "--quiet")
	cmd.Stdin = bytes.NewReader(pack(t, sample()))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"-rwsr-xr-x   2 7        8               5", "sym -> dir/file", "crw-rw-rw-   1 0        0          1,   3"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("listing lacks %q:\n%s", want, out)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	for _, name := range []string{"", "TRAILER!!!", "a\x00b", strings.Repeat("x", MaxName+1)} {
		if err := NewWriter(io.Discard).WriteHeader(&Header{Name: name}); !errors.Is(err, ErrFormat) {
			t.Errorf("name of %d bytes: %v", len(name), err)
		}
	}
	w := NewWriter(io.Discard)
	if err := w.WriteHeader(&Header{Name: "f", Size: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("four")); !errors.Is(err, ErrFormat) {
		t.Errorf("long body: %v", err)
	}
	if _, err := w.ReadFrom(strings.NewReader("ab")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short body: %v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrFormat) {
		t.Errorf("close with a byte missing: %v", err)
	}
}

// TestNames has the shortest and the longest names, and what is one byte off.
func TestNames(t *testing.T) {
	for _, n := range []int{1, MaxName} {
		name := strings.Repeat("x", n)
		archive := pack(t, []member{{Header{Name: name, Nlink: 1}, ""}})
		if got, err := unpack(bytes.NewReader(archive)); err != nil || len(got) != 1 || got[0].Name != name {
			t.Errorf("a name of %d bytes: %v", n, err)
		}
		for _, size := range []int{0, 1, n, n + 2, MaxName + 2} { // with its NUL it is n+1
			copy(archive[94:], fmt.Sprintf("%08X", size))
			if _, err := unpack(bytes.NewReader(archive)); !errors.Is(err, ErrFormat) {
				t.Errorf("a name of %d bytes that claims %d: %v", n+1, size, err)
			}
		}
	}
	for _, name := range []string{"\x00", "\x00a"} {
		if err := NewWriter(io.Discard).WriteHeader(&Header{Name: name}); !errors.Is(err, ErrFormat) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	w := NewWriter(io.Discard)
	if err := w.WriteHeader(&Header{Name: "f", Size: 3}); err != nil {
		t.Fatal(err)
	}
	more := strings.NewReader("abcd")
	if n, err := w.ReadFrom(more); err != nil || n != 3 || more.Len() != 1 {
		t.Errorf("ReadFrom() = %d, %v, and left %d", n, err, more.Len())
	}
}

func TestReaderRefuses(t *testing.T) {
	good := pack(t, sample())
	for n := range good { // every truncation
		if _, err := unpack(bytes.NewReader(good[:n])); !errors.Is(err, ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	last := bytes.LastIndex(good, []byte(magic)) // the trailer
	for at, to := range map[int]byte{last + 21: '1', last + 45: '2', 0: '1', 14: 'a', 94: 'F', 102: '1', len(good) - 1: 1} {
		bad := bytes.Clone(good)
		bad[at] = to
		if _, err := unpack(bytes.NewReader(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

// FuzzReader checks that whatever is accepted is written again with the same
// bytes.
func FuzzReader(f *testing.F) {
	f.Add(pack(f, sample()))
	f.Add(pack(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		members, err := unpack(in)
		if err != nil {
			return
		}
		used := b[:len(b)-in.Len()]
		if again := pack(t, members); !bytes.Equal(again, used) {
			t.Errorf("accepted\n%q\nwrites\n%q", used, again)
		}
	})
}
