package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/boot/image/cpio"
)

// wantRefused fails the test unless err is target and says message.
func wantRefused(t *testing.T, err, target error, message string) {
	t.Helper()
	if !errors.Is(err, target) || err != nil && !strings.Contains(err.Error(), message) {
		t.Errorf("got %v, want %v with %q", err, target, message)
	}
}

func TestRefuse(t *testing.T) {
	whiteouts := func(n int) [][]entry { return [][]entry{slices.Repeat([]entry{regular(".wh.x", "")}, n)} }
	tests := map[string]struct {
		layers  [][]entry
		want    error
		message string
	}{
		"absolute":                     {[][]entry{{regular("/etc/passwd", "")}}, ErrHostile, "is absolute"},
		"dot dot":                      {[][]entry{{regular("a/../../etc/passwd", "")}}, ErrHostile, "has \"..\" in it"},
		"long part":                    {[][]entry{{regular(strings.Repeat("n", maxComponent+1), "")}}, ErrHostile, "256 bytes in one part"},
		"long name":                    {[][]entry{{regular(strings.Repeat("dir/", 1100)+"f", "")}}, ErrHostile, "name of 4401 bytes"},
		"through own link":             {[][]entry{{symlink("a", "/etc"), regular("a/passwd", "")}}, ErrHostile, "below \"a\", which is not a directory"},
		"through own file":             {[][]entry{{regular("a", ""), regular("a/b", "")}}, ErrHostile, "below \"a\", which is not a directory"},
		"through own link, an alias":   {[][]entry{{symlink("a", "b"), regular("b/x", ""), regular("a/x", "")}, {regular("a/y", "")}}, ErrHostile, "which is not a directory"},
		"link out":                     {[][]entry{{link("a", "../../etc/shadow")}}, ErrHostile, "hard link \"a\""},
		"link to nothing":              {[][]entry{{regular("b", ""), link("a", "nowhere")}}, ErrHostile, "which does not exist"},
		"link to itself":               {[][]entry{{link("a", "a")}}, ErrHostile, "a hard link to itself"},
		"link to a directory":          {[][]entry{{dir("d", 0o755), link("a", "d")}}, ErrHostile, "a hard link to the directory \"d\""},
		"link before its target":       {[][]entry{{link("a", "b"), regular("b", "")}}, ErrHostile, "stands before its target"},
		"links in a circle":            {[][]entry{{link("a", "b"), link("b", "a")}}, ErrHostile, "stands before its target"},
		"file, then directory":         {[][]entry{{regular("a", ""), dir("a", 0o755)}}, ErrHostile, "a directory and something else"},
		"directory, then file":         {[][]entry{{dir("a", 0o755), regular("a", "")}}, ErrHostile, "twice in one layer"},
		"implied directory, then file": {[][]entry{{regular("a/b", ""), regular("a", "")}}, ErrHostile, "a directory and something else"},
		"the same, below a directory":  {[][]entry{{regular("a/b", ""), regular("a", "")}, {dir("a", 0o755)}}, ErrHostile, "a directory and something else"},
		"file, implied above":          {[][]entry{{regular("a", "")}, {regular("a/b", "")}}, ErrHostile, "a directory and something else"},
		"file with a link, twice":      {[][]entry{{regular("a", ""), link("b", "a"), regular("a", "")}}, ErrHostile, "twice in one layer"},
		"link, then file":              {[][]entry{{link("a", "b"), regular("a", "")}}, ErrHostile, "twice in one layer"},
		"aliases in a circle":          {[][]entry{{symlink("a", "b"), symlink("b", "a")}, {regular("a/x", "")}}, ErrHostile, "too many symbolic links"},
		"alias into itself":            {[][]entry{{symlink("a", "a/b")}, {regular("a/x", "")}}, ErrHostile, "directory of an upper layer and a link to"},
		"alias to itself":              {[][]entry{{symlink("a", "a")}, {regular("a/x", "")}}, ErrHostile, "directory of an upper layer and a link to"},
		"alias to the root":            {[][]entry{{symlink("a", "/")}, {regular("a/x", "")}}, ErrHostile, "directory of an upper layer and a link to"},
		"reserved name":                {[][]entry{{regular(".extra/sealboot/seal.key", "mine")}}, ErrHostile, "belongs to the firmware"},
		"reserved directory":           {[][]entry{{symlink(".extra/sealboot", "/tmp")}}, ErrHostile, "belongs to the firmware"},
		"reserved parent":              {[][]entry{{symlink(".extra", "/tmp")}}, ErrHostile, "is not a directory"},
		"init directory":               {[][]entry{{dir("init", 0o755)}}, ErrHostile, "the first process needs this name"},
		"implied init directory":       {[][]entry{{regular("init/x", "")}}, ErrHostile, "the first process needs this name"},
		"bad whiteout":                 {[][]entry{{regular("a/.wh...", "")}}, ErrHostile, "whiteout"},
		"root is no directory":         {[][]entry{{symlink("./", "/etc")}}, ErrHostile, "the root is not a directory"},
		"end of archive":               {[][]entry{{regular("TRAILER!!!", "")}}, cpio.ErrFormat, "TRAILER"},
		"unknown type":                 {[][]entry{{{Header: tar.Header{Typeflag: 'Z', Name: "a"}}}}, ErrHostile, "unknown type"},
		"many entries":                 {whiteouts(32), nil, ""},
		"too many entries":             {whiteouts(33), ErrTooLarge, "33 entries"},
		"file too large":               {[][]entry{{regular("big", strings.Repeat("x", 1<<20))}}, ErrTooLarge, "root archive needs"},
		"as many files":                {[][]entry{{regular("a", ""), regular("b", ""), regular("c", ""), regular("d", "")}}, nil, ""},
		"too many files":               {[][]entry{{regular("a", ""), regular("b", ""), regular("c", ""), regular("d", ""), regular("e", "")}}, ErrTooLarge, "more than 8 files"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			for _, entries := range tc.layers {
				layers = append(layers, layerOf(t, entries...))
			}
			_, err := RAMRoot(context.Background(), &memory{}, layers, Options{MaxBytes: 1 << 20, MaxFiles: 8})
			wantRefused(t, err, tc.want, tc.message)
		})
	}
	_, err := RAMRoot(context.Background(), &memory{}, []Layer{blob([]byte("abc"))}, Options{MaxBytes: 1 << 20})
	wantRefused(t, err, ErrHostile, "layer of 3 bytes")
}

// TestLimits has what is just small enough, and what is one larger.
func TestLimits(t *testing.T) {
	for length, want := range map[int]error{cpio.MaxName: nil, cpio.MaxName + 1: ErrHostile} {
		_, err := cleanName(strings.Repeat("a/", length/2) + strings.Repeat("b", length%2))
		wantRefused(t, err, want, "name of")
	}
	for name, want := range map[string]error{
		strings.Repeat("n", maxComponent): nil, strings.Repeat("n", maxComponent+1): ErrHostile, "a\x00b": ErrHostile, "\x00": ErrHostile,
	} {
		_, err := cleanName(name)
		wantRefused(t, err, want, "name")
	}
	file := func(size int64, uid, gid int) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Size: size, Uid: uid, Gid: gid}
	}
	link := func(to string) tar.Header { return tar.Header{Typeflag: tar.TypeSymlink, Linkname: to} }
	device := func(major, minor int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeBlock, Devmajor: major, Devminor: minor}
	}
	for _, tc := range []struct {
		want    error
		message string
		headers []tar.Header
	}{
		{nil, "", []tar.Header{
			file(0, 0, 0), file(cpio.MaxSize, math.MaxUint32, math.MaxUint32), link("x"), link(strings.Repeat("x", maxTarget)),
			device(0, 0), device(maxMajor, maxMinor)}},
		{ErrTooLarge, "can have 4294967295", []tar.Header{file(-1, 0, 0), file(cpio.MaxSize+1, 0, 0)}},
		{ErrHostile, "belongs to", []tar.Header{file(0, -1, 0), file(0, 0, -1), file(0, math.MaxUint32+1, 0), file(0, 0, math.MaxUint32+1)}},
		{ErrHostile, "symbolic link", []tar.Header{link(""), link(strings.Repeat("x", maxTarget+1)), link("a\x00"), link("\x00")}},
		{ErrHostile, "is device", []tar.Header{device(-1, 0), device(0, -1), device(maxMajor+1, 0), device(0, maxMinor+1)}},
	} {
		for _, h := range tc.headers {
			_, err := new(merger).convert("name", &h)
			wantRefused(t, err, tc.want, tc.message)
		}
	}
	for names, want := range map[int64]error{maxNameBytes - 1: nil, maxNameBytes: ErrTooLarge} { // so many bytes before a name of one
		m := &merger{ctx: t.Context(), names: names, layers: []Layer{layerOf(t, regular("a", ""))}, opts: Options{MaxBytes: 1 << 20, MaxFiles: 8}}
		wantRefused(t, m.each(1, func(*tar.Header, io.Reader) error { return nil }), want, "bytes of names")
	}
	for total, want := range map[int64]error{7: nil, 8: ErrTooLarge} {
		m := &merger{ctx: t.Context(), opts: Options{MaxBytes: 0}}
		wantRefused(t, m.countStream(int(total)), want, "layers of more than")
	}
	m := &merger{stats: &Stats{Xattrs: map[string]int{}}}
	for i := range maxXattrs + 1 {
		for range 2 {
			m.countXattrs(&tar.Header{PAXRecords: map[string]string{fmt.Sprint(xattrPrefix, i): ""}})
		}
	}
	if n := slices.Max(slices.Collect(maps.Values(m.stats.Xattrs))); len(m.stats.Xattrs) != maxXattrs || n != 2 {
		t.Errorf("%d attributes, at most on %d files", len(m.stats.Xattrs), n)
	}
}

// TestSparseBomb has a GNU tar header that claims 8 GiB of holes.
func TestSparseBomb(t *testing.T) {
	h := make([]byte, 3*512)
	copy(h, "bomb")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "77777777777\x0000000000000\x00") // one fragment: nothing, at the end
	copy(h[483:], "77777777777\x00")
	sum := 0
	for _, c := range h[:512] {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	if e, err := tar.NewReader(bytes.NewReader(h)).Next(); err != nil || e.Size != 8<<30-1 {
		t.Fatalf("the test's header is wrong: %+v, %v", e, err)
	}
	_, err := RAMRoot(context.Background(), &memory{}, []Layer{blob(h)}, Options{MaxBytes: 1 << 40})
	wantRefused(t, err, ErrTooLarge, "a file in a RAM root can have")
}
