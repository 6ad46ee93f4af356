package unpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// nothing is an Output that keeps nothing.
type nothing struct{}

func (nothing) Write(p []byte) (int, error)            { return len(p), nil }
func (nothing) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nothing) Seek(int64, int) (int64, error)         { return 0, nil }
func (nothing) Truncate(int64) error                   { return nil }

// TestHeap: what is kept of the paths comes out of the budget that the archive has, whatever the layers are made of.
// 194 KB of them made 12 GiB of tree.
func TestHeap(t *testing.T) {
	deep := func(n, depth int) string { return fmt.Sprintf("%x/", n) + strings.Repeat("d/", depth) }
	each := func(n int, make func(int) entry) (list []entry) {
		for i := range n {
			list = append(list, make(i))
		}
		return list
	}
	const n = 1000
	for name, entries := range map[string][]entry{
		"whiteouts, deep":           each(n/5, func(i int) entry { return regular(deep(i, 1000)+".wh.x", "") }),
		"whiteouts, as deep as can": each(n, func(i int) entry { return regular(deep(i, 120)+".wh.x", "") }),
		"opaque directories":        each(n, func(i int) entry { return regular(deep(i, 120)+opaqueMarker, "") }),
		"whiteouts":                 each(20*n, func(i int) entry { return regular(fmt.Sprintf(".wh.%x", i), "") }),
		"directories":               each(20*n, func(i int) entry { return dir(fmt.Sprintf("%x", i), 0o755) }),
		"files, long names":         each(10*n, func(i int) entry { return regular(strings.Repeat(strings.Repeat("n", 200)+"/", 8)+fmt.Sprint(i), "") }),
		"kernels":                   each(20*n, func(i int) entry { return regular(fmt.Sprintf("boot/vmlinuz-%x", i), "") }),
		"links to nothing":          each(20*n, func(i int) entry { return link(fmt.Sprintf("%x", i), fmt.Sprintf("to/%x", i)) }),
		"symbolic links":            each(2*n, func(i int) entry { return symlink(fmt.Sprintf("%x", i), strings.Repeat("t", 4000)) }),
		"links to links":            append([]entry{regular("a", "")}, each(20*n, func(i int) entry { return link(fmt.Sprintf("%x", i+16), "a") })...),
	} {
		layer := layerOf(t, entries...)
		const budget = 2 << 20
		heaptest.Bound{Fixed: 8<<20 + budget}.Peak(t, name, int(layer.Size), func() {
			_, err := RAMRoot(context.Background(), nothing{}, []Layer{layer}, Options{MaxBytes: budget, Keep: func(string) bool { return true }})
			if err == nil {
				t.Logf("%s: taken", name)
			}
		})
	}
}

// TestHeapOfLinksBelow: where a lower layer's link leads is kept, too, when a link of an upper one wants it.
func TestHeapOfLinksBelow(t *testing.T) {
	const n, budget = 4000, 4 << 20
	long := strings.Repeat(strings.Repeat("n", 250)+"/", 15)
	var lower, upper []entry
	for i := range n {
		upper = append(upper, link(fmt.Sprintf("%x", i), fmt.Sprintf("to/%x", i)))
		lower = append(lower, link(fmt.Sprintf("to/%x", i), fmt.Sprintf("%s%x", long, i)))
	}
	layers := []Layer{layerOf(t, lower...), layerOf(t, upper...)}
	heaptest.Bound{Fixed: 8<<20 + budget}.Peak(t, "links to links below", int(layers[0].Size+layers[1].Size), func() {
		if _, err := RAMRoot(context.Background(), nothing{}, layers, Options{MaxBytes: budget}); err == nil {
			t.Error("links to nothing were taken")
		}
	})
}

// TestWindowHeap: the head of a zstd frame asks for a window, and a layer of a few bytes may have one of 128 MiB.
func TestWindowHeap(t *testing.T) {
	for bits := byte(20); bits <= 31; bits++ {
		raw := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (bits - 10) << 3, 2, 0, 16, 'x'} // and a block that is one byte, 128 KiB times
		heaptest.Bound{Fixed: maxWindow + 32<<20}.Total(t, fmt.Sprintf("window 2^%d", bits), len(raw), func() {
			if _, err := RAMRoot(context.Background(), nothing{}, []Layer{blob(raw)}, Options{MaxBytes: 1 << 20}); err == nil {
				t.Error("a broken layer was taken")
			}
		})
	}
}

// TestXattrNames: the name of an attribute can have a MiB in a tar header, and none that is longer than on a disk is kept.
func TestXattrNames(t *testing.T) {
	m := &merger{stats: &Stats{Xattrs: map[string]int{}}}
	for _, n := range []int{maxXattrName, maxXattrName + 1} {
		m.countXattrs(&tar.Header{PAXRecords: map[string]string{xattrPrefix + strings.Repeat("n", n): ""}})
	}
	if len(m.stats.Xattrs) != 1 {
		t.Errorf("%d names are kept, want the one of %d bytes", len(m.stats.Xattrs), maxXattrName)
	}
}

// TestPAXNames: a name and where a link leads may lie in a PAX header of a MiB, which no name keeps in memory.
func TestPAXNames(t *testing.T) {
	const n, budget = 200, 2 << 20
	long := map[string]string{"SEALBOOT.padding": strings.Repeat("p", 900<<10)}
	name := func(i int) string { return fmt.Sprintf("n\u00fc%x", i) } // no ASCII: it goes into the PAX header
	padded := func(e entry) entry {
		e.PAXRecords, e.Format = long, tar.FormatPAX
		return e
	}
	var files, symlinks, links []entry
	for i := range n {
		files = append(files, padded(regular(name(i), "")))
		symlinks = append(symlinks, padded(symlink(fmt.Sprintf("%x", i), name(i))))
		links = append(links, padded(link(name(i), "to-"+name(i))))
	}
	for kind, entries := range map[string][]entry{"files": files, "symbolic links": symlinks, "links to nothing": links} {
		layer := gzipped(t, layerOf(t, entries...))
		heaptest.Bound{Fixed: 24<<20 + budget}.Peak(t, kind, int(layer.Size), func() {
			_, _ = RAMRoot(context.Background(), nothing{}, []Layer{layer}, Options{MaxBytes: 256 << 20})
		})
	}
}

// TestChainOfLinks: where each link of a chain is wanted by a name of its own, all names before it would be copied at
// each: 1,000 entries, 500,000 copies.
func TestChainOfLinks(t *testing.T) {
	const n = 1000
	var upper, lower []entry
	for i := range n {
		upper = append(upper, link(fmt.Sprintf("%x", i), fmt.Sprintf("to/%x", i)))
		lower = append(lower, link(fmt.Sprintf("to/%x", i), fmt.Sprintf("to/%x", i+1)))
	}
	layers := []Layer{layerOf(t, lower...), layerOf(t, upper...)}
	_, err := RAMRoot(context.Background(), nothing{}, layers, Options{MaxBytes: 64 << 20, MaxFiles: 10 * n})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
}

// gzipped is the same layer, compressed.
func gzipped(t *testing.T, l Layer) Layer {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.Copy(w, io.NewSectionReader(l.Blob, 0, l.Size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob(b.Bytes())
}
