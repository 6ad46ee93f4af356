package unpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/sealboot/sealboot/boot/image/cpio"
	"github.com/sealboot/sealboot/boot/image/unpack/rootinit"
)

// memory is an Output in a slice.
type memory struct {
	b   []byte
	pos int64
}

func (m *memory) Write(p []byte) (int, error) {
	n, err := m.WriteAt(p, m.pos)
	m.pos += int64(n)
	return n, err
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if grow := off + int64(len(p)) - int64(len(m.b)); grow > 0 {
		m.b = append(m.b, make([]byte, grow)...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) Seek(off int64, _ int) (int64, error) { m.pos = off; return off, nil }
func (m *memory) Truncate(n int64) error               { m.b = m.b[:n]; return nil }

// entry is one tar entry of a test.
type entry struct {
	tar.Header
	body string
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}
func regular(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}}
}
func link(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}}
}

func layerOf(t testing.TB, entries ...entry) Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.body))
		}
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob(buf.Bytes())
}

func blob(b []byte) Layer { return Layer{bytes.NewReader(b), int64(len(b))} }

// tree maps paths to what is there, in words.
type tree map[string]string

// kernelUnpack does with an archive what the kernel does, and fails where the
// kernel would lose something silently.
func kernelUnpack(t testing.TB, archive []byte) tree {
	t.Helper()
	inodes := map[uint32]*string{}
	at := map[string]*string{".": new("dir 755 0:0")}
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		parent := at[path.Dir(h.Name)]
		if parent == nil || !strings.HasPrefix(*parent, "dir") {
			t.Fatalf("member %q has no directory to be in", h.Name)
		}
		what := fmt.Sprintf("%o %d:%d", h.Mode&0o7777, h.UID, h.GID)
		switch h.Mode & cpio.ModeType {
		case cpio.ModeDir:
			what = "dir " + what
		case cpio.ModeRegular:
			what = "file " + what + " " + string(body)
		case cpio.ModeSymlink:
			what = "link " + string(body)
		default:
			what = fmt.Sprintf("node %o %s %d,%d", h.Mode&cpio.ModeType, what, h.RdevMajor, h.RdevMinor)
		}
		inode := inodes[h.Ino]
		switch {
		case h.Nlink >= 2 && inode != nil: // another name, the body is not repeated
		case at[h.Name] != nil && h.Mode&cpio.ModeType == cpio.ModeDir:
			inode = at[h.Name]
			*inode = what
		default:
			inode = &what
			if h.Nlink >= 2 {
				inodes[h.Ino] = inode
			}
		}
		at[h.Name] = inode
	}
	return nameLinks(at)
}

// nameLinks tells paths that share an inode.
func nameLinks(at map[string]*string) tree {
	out, names := tree{}, map[*string][]string{}
	for name, inode := range at {
		names[inode] = append(names[inode], name)
	}
	for name, inode := range at {
		out[name] = *inode
		if n := len(names[inode]); n > 1 {
			out[name] += fmt.Sprintf(" (%d names)", n)
		}
	}
	return out
}

// content unpacks an archive and takes off what the firmware adds.
func content(t testing.TB, archive []byte) tree {
	t.Helper()
	got := kernelUnpack(t, archive)
	if !strings.HasPrefix(got[rootinit.Path], "file 755 0:0 \x7fELF") {
		t.Error("the first process is missing")
	}
	delete(got, rootinit.Path)
	if own, ok := got[rootinit.OwnInit]; ok { // as the first process does
		got[rootinit.Path] = own
		delete(got, rootinit.OwnInit)
	}
	for _, name := range []string{".extra", reserved, rootinit.NewRoot} {
		delete(got, name)
	}
	return got
}

func TestMerge(t *testing.T) {
	const d, f = "dir 755 0:0", "file 644 0:0 "
	tests := map[string]struct {
		layers [][]entry // lowest first
		want   tree
	}{
		"override": {
			[][]entry{{dir("./", 0o700), dir("a/", 0o755), regular("a/x", "old"), regular("a/y", "y")}, {regular("a/x", "new")}},
			tree{".": "dir 700 0:0", "a": d, "a/x": f + "new", "a/y": f + "y"},
		},
		"whiteout": {
			[][]entry{{dir("a", 0o755), regular("a/x", "x"), regular("a/y", "y"), regular("b/z", "z")}, {regular("a/.wh.x", ""), regular(".wh.b", "")}},
			tree{".": d, "a": d, "a/y": f + "y"},
		},
		"whiteout beside a new file": {
			[][]entry{{dir("a", 0o755), regular("a/x", "x")}, {dir("a", 0o755), regular("a/new", "1"), regular(".wh.a", "")}},
			tree{".": d, "a": d, "a/new": f + "1"},
		},
		"opaque": {
			[][]entry{{dir("a", 0o700), regular("a/x", "x")}, {regular("a/.wh..wh..opq", ""), regular("a/y", "y")}},
			tree{".": d, "a": "dir 700 0:0", "a/y": f + "y"},
		},
		"opaque, and a new directory below": {
			[][]entry{{dir("a", 0o700), regular("a/x", "x")}, {regular("a/.wh..wh..opq", ""), regular("a/b/y", "y")}},
			tree{".": d, "a": "dir 700 0:0", "a/b": d, "a/b/y": f + "y"},
		},
		"the root twice": {
			[][]entry{{dir("./", 0o700)}, {dir("./", 0o711), dir(".", 0o750)}},
			tree{".": "dir 750 0:0"},
		},
		"directory replaces file, file replaces directory": {
			[][]entry{{regular("a", "a"), dir("b", 0o755), regular("b/x", "x")}, {dir("a", 0o755), regular("a/y", "y"), regular("b", "b")}},
			tree{".": d, "a": d, "a/y": f + "y", "b": f + "b"},
		},
		"hidden in the middle": {
			[][]entry{{dir("a", 0o755), regular("a/x", "x")}, {symlink("a", "/b")}, {dir("a", 0o755)}},
			tree{".": d, "a": d},
		},
		"upper metadata of a directory": {
			[][]entry{{dir("a", 0o700), regular("a/x", "x")}, {dir("a", 0o711)}},
			tree{".": d, "a": "dir 711 0:0", "a/x": f + "x"},
		},
		"implied directory gets lower metadata": {
			[][]entry{{dir("a", 0o700)}, {regular("a/x", "x")}},
			tree{".": d, "a": "dir 700 0:0", "a/x": f + "x"},
		},
		"hard links": {
			[][]entry{{regular("a", "1"), link("b", "./a"), link("c", "b")}},
			tree{".": d, "a": f + "1 (3 names)", "b": f + "1 (3 names)", "c": f + "1 (3 names)"},
		},
		"hard link to a file that is replaced above": {
			[][]entry{{regular("perl", "old"), link("perl5", "perl"), link("perl6", "perl5")}, {regular("perl", "new")}},
			tree{".": d, "perl": f + "new", "perl5": f + "old (2 names)", "perl6": f + "old (2 names)"},
		},
		"hard link to a link that is replaced above": {
			[][]entry{{regular("a", "old"), link("b", "a"), link("c", "b")}, {regular("a", "new"), regular("b", "new")}},
			tree{".": d, "a": f + "new", "b": f + "new", "c": f + "old"},
		},
		"hard link through a link that is replaced above": {
			[][]entry{{regular("a", "1"), link("b", "a"), link("c", "b")}, {regular("b", "new")}},
			tree{".": d, "a": f + "1 (2 names)", "b": f + "new", "c": f + "1 (2 names)"},
		},
		"hard links to a file and to its link, both replaced above": {
			[][]entry{{regular("a", "1"), link("b", "a"), link("c", "b"), link("d", "a")}, {regular("a", "new"), regular("b", "new")}},
			tree{".": d, "a": f + "new", "b": f + "new", "c": f + "1 (2 names)", "d": f + "1 (2 names)"},
		},
		"hard link to a lower link whose file is replaced beside it": {
			[][]entry{{regular("a", "1"), link("b", "a")}, {regular("a", "new"), link("c", "b")}},
			tree{".": d, "a": f + "new", "b": f + "1", "c": f + "1"},
		},
		"hard link into a lower layer": {
			[][]entry{{regular("a", "1")}, {link("b", "a")}},
			tree{".": d, "a": f + "1", "b": f + "1"},
		},
		"hard link to a symbolic link": {
			[][]entry{{symlink("a", "x"), link("b", "a")}},
			tree{".": d, "a": "link x", "b": "link x"},
		},
		"through a link of a lower layer": {
			[][]entry{{symlink("lib", "usr/lib"), dir("usr/lib", 0o755), regular("usr/lib/x", "x")}, {regular("lib/y", "y"), regular("lib/.wh.x", "")}},
			tree{".": d, "lib": "link usr/lib", "usr": d, "usr/lib": d, "usr/lib/y": f + "y"},
		},
		"through an absolute link, and a link to a link": {
			[][]entry{{symlink("a", "/b"), symlink("b", "c/../d"), dir("d", 0o755)}, {regular("a/x", "x")}},
			tree{".": d, "a": "link /b", "b": "link c/../d", "d": d, "d/x": f + "x"},
		},
		"devices and owners": {
			[][]entry{{
				{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
				{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600, Uid: 7, Gid: 8}},
			}},
			tree{".": d, "null": "node 20000 666 0:0 1,3", "pipe": "node 10000 600 7:8 0,0"},
		},
		"own init": {
			[][]entry{{regular("init", "mine"), link("sbin", "init")}},
			tree{".": d, "init": f + "mine (2 names)", "sbin": f + "mine (2 names)"},
		},
		"the same name twice": {
			[][]entry{{regular("a", "first"), regular("a", "second"), dir("b", 0o755), dir("b", 0o700)}},
			tree{".": d, "a": f + "second", "b": "dir 700 0:0"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			for _, entries := range tc.layers {
				layers = append(layers, layerOf(t, entries...))
			}
			var out memory
			s, err := RAMRoot(context.Background(), &out, layers, Options{MaxBytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if s.Size != int64(len(out.b)) {
				t.Errorf("Size = %d of %d", s.Size, len(out.b))
			}
			if diff := cmp.Diff(tc.want, content(t, out.b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	plain := layerOf(t, dir("a", 0o755), regular("a/x", strings.Repeat("content ", 100000)))
	raw := make([]byte, plain.Size)
	if _, err := plain.Blob.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	var gz, zs bytes.Buffer
	zw := gzip.NewWriter(&gz)
	sw, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{zw, sw} {
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var want memory
	if _, err := RAMRoot(context.Background(), &want, []Layer{plain}, Options{MaxBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		var got memory
		var read int64
		opts := Options{MaxBytes: 8 << 20, Progress: func(done int64) { read = done }}
		if _, err := RAMRoot(context.Background(), &got, []Layer{blob(b)}, opts); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got.b, want.b) {
			t.Errorf("%s: another archive than from the plain layer", name)
		}
		if read == 0 || read > int64(len(b)) {
			t.Errorf("%s: progress of %d of %d bytes", name, read, len(b))
		}
		if _, err := RAMRoot(context.Background(), &got, []Layer{blob(b[:len(b)/2])}, opts); err == nil {
			t.Errorf("%s: half a layer was accepted", name)
		}
		// A limit on what comes out, hidden or not: each layer hides the next.
		many := Options{MaxBytes: 900 << 10}
		if _, err := RAMRoot(context.Background(), &memory{}, []Layer{blob(b), plain, plain, plain, plain, plain, plain, plain, plain, plain, plain}, many); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: bomb: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := RAMRoot(ctx, &memory{}, []Layer{plain}, Options{MaxBytes: 8 << 20}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestKeepAndXattrs(t *testing.T) {
	kernel := regular("usr/lib/modules/6.1/vmlinuz", "kernel")
	kernel.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01"}
	linked := [][]entry{{regular("objects/ab", "kernel"), link("usr/lib/modules/6.1/vmlinuz", "objects/ab")}, {kernel}}
	for i, entries := range linked {
		var out memory
		s, err := RAMRoot(context.Background(), &out, []Layer{layerOf(t, entries...)}, Options{
			MaxBytes: 1 << 20,
			Keep:     func(name string) bool { return strings.HasSuffix(name, "vmlinuz") },
		})
		if err != nil {
			t.Fatal(err)
		}
		at := s.Kept["usr/lib/modules/6.1/vmlinuz"]
		if got := string(out.b[at.Offset : at.Offset+at.Size]); got != "kernel" {
			t.Errorf("%d: kept %+v: %q", i, at, got)
		}
		if i == 1 && s.Xattrs["security.capability"] != 1 {
			t.Errorf("xattrs: %v", s.Xattrs)
		}
	}
}
