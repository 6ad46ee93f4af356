package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The fuzzer's bytes are a program: two bytes an entry. Few names and few
// kinds make layers collide in every way.
const (
	opDir = iota
	opFile
	opSymlink
	opLink
	opWhiteout
	opOpaque
	opNextLayer
	ops
)

// programLayers makes layers of a program.
func programLayers(program []byte) [][]entry {
	names := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/b/b", "init"}
	layers := [][]entry{nil}
	for i := 0; i+1 < len(program) && i < 80; i += 2 {
		name := names[program[i+1]%8]
		other := names[program[i+1]/8%8]
		var e entry
		switch program[i] % ops {
		case opDir:
			e = dir(name, 0o700+int64(program[i+1]/8))
		case opFile:
			e = regular(name, fmt.Sprint("body ", i))
		case opSymlink:
			e = symlink(name, other)
		case opLink:
			e = link(name, other)
		case opWhiteout:
			e = regular(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)), "")
		case opOpaque:
			e = regular(name+"/"+opaqueMarker, "")
		case opNextLayer:
			layers = append(layers, nil)
			continue
		}
		layers[len(layers)-1] = append(layers[len(layers)-1], e)
	}
	return layers
}

// applyAll unpacks layers from the lowest up, as the specification has it and
// as slow as that is. It gives up on what is undefined or refused by design.
func applyAll(layers [][]entry) (tree, bool) {
	at := map[string]*string{".": new("dir 755 0:0")}
	for _, entries := range layers {
		own, copies := map[string]bool{}, map[string]*string{}
		for _, e := range entries { // whiteouts are about lower layers only
			base := path.Base(e.Name)
			if strings.HasPrefix(base, whiteoutPrefix) && throughOther(at, e.Name) {
				return nil, false
			}
			if base == opaqueMarker {
				removeBelow(at, path.Dir(e.Name))
			} else if victim, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
				victim = path.Join(path.Dir(e.Name), victim)
				removeBelow(at, victim)
				delete(at, victim)
			}
		}
		for _, e := range entries {
			if strings.HasPrefix(path.Base(e.Name), whiteoutPrefix) {
				continue
			}
			if !apply(at, own, copies, e) {
				return nil, false
			}
		}
	}
	return nameLinks(at), true
}

func apply(at map[string]*string, own map[string]bool, copies map[string]*string, e entry) bool {
	if throughOther(at, e.Name) {
		return false
	}
	for p := path.Dir(e.Name); at[p] == nil; p = path.Dir(p) {
		at[p] = new("dir 755 0:0")
	}
	var what *string
	switch e.Typeflag {
	case tar.TypeDir:
		what = new(fmt.Sprintf("dir %o 0:0", e.Mode))
	case tar.TypeReg:
		what = new(fmt.Sprintf("file %o 0:0 %s", e.Mode, e.body))
	case tar.TypeSymlink:
		what = new("link " + e.Linkname)
	case tar.TypeLink:
		what = at[e.Linkname]
		if what == nil || strings.HasPrefix(*what, "dir") {
			return false
		}
		if strings.HasPrefix(*what, "link") {
			what = new(*what)
		} else if !own[e.Linkname] { // into a lower layer: the links of this one share a copy
			if copies[e.Linkname] == nil {
				copies[e.Linkname] = new(*what)
			}
			what = copies[e.Linkname]
		}
	}
	if old := at[e.Name]; old != nil {
		isDir := e.Typeflag == tar.TypeDir
		if own[e.Name] && (!isDir || !strings.HasPrefix(*old, "dir")) {
			return false // twice in one layer: refused, or the last one wins
		}
		if !isDir || !strings.HasPrefix(*old, "dir") {
			removeBelow(at, e.Name)
		}
	}
	at[e.Name], own[e.Name] = what, true
	return true
}

// throughOther says whether the way to name leads through a link or a file.
func throughOther(at map[string]*string, name string) bool {
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if at[p] != nil && !strings.HasPrefix(*at[p], "dir") {
			return true
		}
	}
	return false
}

func removeBelow(at map[string]*string, name string) {
	for p := range at {
		if strings.HasPrefix(p, name+"/") {
			delete(at, p)
		}
	}
}

// FuzzMerge compares reading layers from the top down with applying them one
// after the other.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{opDir, 0, opFile, 2, opNextLayer, 0, opWhiteout, 2, opFile, 3})
	f.Add([]byte{opFile, 0, opLink, 1, opNextLayer, 0, opFile, 0})
	f.Add([]byte{opDir, 0, opFile, 2, opNextLayer, 0, opSymlink, 8, opNextLayer, 0, opDir, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		entries := programLayers(program)
		var layers []Layer
		for _, l := range entries {
			layers = append(layers, layerOf(t, l...))
		}
		var out memory
		_, err := RAMRoot(context.Background(), &out, layers, Options{MaxBytes: 1 << 20})
		if err != nil && !errors.Is(err, ErrHostile) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		got := content(t, out.b)
		want, defined := applyAll(entries)
		if !defined {
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			for i, l := range entries {
				for _, e := range l {
					t.Logf("layer %d: %c %s -> %s", i+1, e.Typeflag, e.Name, e.Linkname)
				}
			}
			t.Error(diff)
		}
	})
}

// FuzzTar checks that no layer makes RAMRoot panic or exceed its limits, and
// that every archive it makes can be unpacked by the kernel.
func FuzzTar(f *testing.F) {
	seed := layerOf(f, dir("a", 0o755), regular("a/x", "x"), symlink("b", "a"), link("c", "a/x"))
	b := make([]byte, seed.Size)
	if _, err := seed.Blob.ReadAt(b, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(b, []byte{})
	f.Add([]byte{0x1f, 0x8b, 8, 0}, b)
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		var out memory
		s, err := RAMRoot(context.Background(), &out, []Layer{blob(lower), blob(upper)}, Options{MaxBytes: 1 << 16})
		if int64(len(out.b)) > 1<<16 {
			t.Fatalf("archive of %d bytes", len(out.b))
		}
		if err != nil {
			return
		}
		if s.Size != int64(len(out.b)) || s.Size%512 != 0 {
			t.Fatalf("Size = %d of %d", s.Size, len(out.b))
		}
		again := &memory{}
		if _, err := RAMRoot(context.Background(), again, []Layer{blob(bytes.Clone(lower)), blob(upper)}, Options{MaxBytes: 1 << 16}); err != nil || !bytes.Equal(again.b, out.b) {
			t.Fatalf("the second run differs: %v", err)
		}
		kernelUnpack(t, out.b)
	})
}
