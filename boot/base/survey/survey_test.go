package survey

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// tarOf has an entry of each header, with a content of so many bytes.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func walk(ctx context.Context, b *Budget, raw []byte) (names []string, err error) {
	err = b.Tar(ctx, bytes.NewReader(raw), int64(len(raw)), func(h *tar.Header, offset int64) error {
		names = append(names, fmt.Sprintf("%s at %d", h.Name, offset))
		return nil
	})
	return names, err
}

func TestBudget(t *testing.T) {
	ctx := t.Context()
	b := &Budget{names: 3, bytes: 10}
	if err := errors.Join(b.Spend(ctx, 3, 10), b.Spend(ctx, 0, 0)); err != nil {
		t.Error(err)
	}
	for _, s := range []struct {
		names int
		bytes int64
	}{{1, 0}, {0, 1}} {
		if err := b.Spend(ctx, s.names, s.bytes); !errors.Is(err, ErrTooMuch) {
			t.Errorf("%v of nothing: %v", s, err)
		}
	}
	cause := errors.New("cause")
	done, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	if err := NewBudget().Spend(done, 0, 0); !errors.Is(err, cause) {
		t.Errorf("with a context that is done: %v", err)
	}
}

func TestTar(t *testing.T) {
	raw := tarOf(t, tar.Header{Name: "a", Size: 1 << 20}, tar.Header{Name: "b/" + strings.Repeat("n", 200), Size: 3})
	// Three headers, one of them for the long name and followed by it, the last bytes of contents, and the end.
	b := &Budget{names: 2, bytes: 16 << 10}
	names, err := walk(t.Context(), b, raw)
	if err != nil || len(names) != 2 || names[0] != "a at 512" {
		t.Fatalf("%q, %v", names, err)
	}
	if _, err := walk(t.Context(), &Budget{names: 1, bytes: maxBytes}, raw); !errors.Is(err, ErrTooMuch) {
		t.Errorf("two entries for a budget of one: %v", err)
	}
	if _, err := walk(t.Context(), &Budget{names: 2, bytes: 600}, raw); !errors.Is(err, ErrTooMuch) {
		t.Errorf("headers for a budget of 600 bytes: %v", err)
	}
	if _, err := walk(t.Context(), NewBudget(), tarOf(t, tar.Header{Name: strings.Repeat("n", maxName+1)})); !errors.Is(err, ErrTooMuch) {
		t.Errorf("a long name: %v", err)
	}
	if _, err := walk(t.Context(), NewBudget(), raw[:1000]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a tar: %v", err)
	}
	stop := errors.New("stop")
	err = NewBudget().Tar(t.Context(), bytes.NewReader(raw), int64(len(raw)), func(*tar.Header, int64) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("stopped by its caller: %v", err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	for i := range batch + 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for budget, want := range map[int]error{batch + 10: nil, batch + 9: ErrTooMuch} {
		n := 0
		err := (&Budget{names: budget}).Directory(t.Context(), root, func(fs.DirEntry) error { n++; return nil })
		if !errors.Is(err, want) || err == nil && n != budget {
			t.Errorf("%d names for a budget of %d: %v", n, budget, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = NewBudget().Directory(ctx, root, func(fs.DirEntry) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled in the middle: %v", err)
	}
}

// TestHeap has directories and tar files with as much in them as a budget allows, and more.
func TestHeap(t *testing.T) {
	dir := t.TempDir()
	for i := range 1 << 12 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%0200d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	heaptest.Bound{Fixed: 8 << 20}.Peak(t, "a directory", 0, func() {
		for range 4 {
			if err := NewBudget().Directory(t.Context(), root, func(fs.DirEntry) error { return nil }); err != nil {
				t.Error(err)
			}
		}
	})
	attributes := map[string]string{}
	for i := range 1000 {
		attributes[fmt.Sprintf("SCHILY.xattr.user.%d", i)] = strings.Repeat("x", 900)
	}
	one := tarOf(t, tar.Header{Name: "a", PAXRecords: attributes})
	one = one[:len(one)-2*block]
	// A header with attributes of nearly 1 MiB is parsed before there is a name, so some of them are garbage at any time.
	for name, raw := range map[string][]byte{
		"entries":                   bytes.Repeat(tarOf(t, tar.Header{Name: "a"})[:block], 3<<16),
		"entries with attributes":   bytes.Repeat(one, 80),
		"attributes without an end": one[:len(one)/2],
	} {
		heaptest.Bound{Fixed: 48 << 20}.Peak(t, name, len(raw), func() {
			if _, err := walkOnly(t.Context(), raw); err == nil {
				t.Errorf("%s: no error", name)
			}
		})
	}
}

func walkOnly(ctx context.Context, raw []byte) (n int, err error) {
	err = NewBudget().Tar(ctx, bytes.NewReader(raw), int64(len(raw)), func(*tar.Header, int64) error { n++; return nil })
	return n, err
}

// FuzzTar: a walk ends, spends no more than it has, and gives offsets within the file.
func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a", Size: 3}, tar.Header{Name: strings.Repeat("b", 200)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := 0
		err := (&Budget{names: 4, bytes: 16 << 10}).Tar(t.Context(), bytes.NewReader(raw), int64(len(raw)), func(h *tar.Header, offset int64) error {
			if n++; offset < 0 || offset > int64(len(raw)) || len(h.Name) > maxName {
				t.Errorf("%d bytes of name at %d in %d bytes", len(h.Name), offset, len(raw))
			}
			return nil
		})
		if n > 4 {
			t.Errorf("%d entries for a budget of 4: %v", n, err)
		}
	})
}
