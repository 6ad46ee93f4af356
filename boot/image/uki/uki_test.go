package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testStub is a small PE32+ file: one section, room for more headers or not.
func testStub(headers int) []byte {
	b := make([]byte, headers+512)
	copy(b, "MZ")
	le := binary.LittleEndian
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	le.PutUint16(b[68:], MachineAMD64)
	le.PutUint16(b[70:], 1)
	le.PutUint16(b[84:], 240)
	opt := b[88:]
	le.PutUint16(opt, magicPE32p)
	le.PutUint32(opt[32:], 4096)
	le.PutUint32(opt[36:], 512)
	le.PutUint32(opt[60:], uint32(headers))
	le.PutUint32(opt[108:], 16)
	sec := b[88+240:]
	copy(sec, ".text")
	le.PutUint32(sec[8:], 300)
	le.PutUint32(sec[12:], 4096)
	le.PutUint32(sec[16:], 512)
	le.PutUint32(sec[20:], uint32(headers))
	copy(b[headers:], "code")
	return b
}

func testContents() []Content {
	return []Content{
		{".osrel", []byte("ID=test\n")},
		{".cmdline", []byte("console=ttyS0")},
		{".initrd", bytes.Repeat([]byte("initrd"), 300)},
		{".linux", bytes.Repeat([]byte("kernel"), 1000)},
	}
}

func checkUKI(t *testing.T, b []byte, want []Content) *File {
	t.Helper()
	f, err := Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range want {
		s, ok := f.Section(c.Name)
		if !ok {
			t.Errorf("section %s is missing", c.Name)
			continue
		}
		got, err := io.ReadAll(s.Reader(bytes.NewReader(b)))
		if err != nil || !bytes.Equal(got, c.Data) {
			t.Errorf("section %s: %d bytes, %v; want %d", c.Name, len(got), err, len(c.Data))
		}
	}
	return f
}

func TestBuild(t *testing.T) {
	for name, headers := range map[string]int{"room": 1024, "headers move": 512} {
		t.Run(name, func(t *testing.T) {
			var first, second bytes.Buffer
			for _, w := range []io.Writer{&first, &second} {
				if err := Build(w, testStub(headers), testContents()); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Error("two builds differ")
			}
			f := checkUKI(t, first.Bytes(), append(testContents(), Content{".text", append([]byte("code"), make([]byte, 296)...)}))
			if !f.IsUKI() {
				t.Error("IsUKI() = false")
			}
			if got, want := f.sizeOfImage, uint32(6*4096+4096); got != want {
				t.Errorf("SizeOfImage = %#x, want %#x", got, want)
			}
		})
	}
}

// TestBuildSystemd has binutils read what Build makes of systemd's own stub.
func TestBuildSystemd(t *testing.T) {
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		t.Skip("systemd-boot-efi is not installed")
	}
	objcopy, err := exec.LookPath("objcopy")
	if err != nil {
		t.Skip("binutils is not installed")
	}
	var buf bytes.Buffer
	if err := Build(&buf, stub, testContents()); err != nil {
		t.Fatal(err)
	}
	checkUKI(t, buf.Bytes(), testContents())
	dir := t.TempDir()
	file := filepath.Join(dir, "uki.efi")
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range testContents() {
		out := filepath.Join(dir, c.Name)
		if msg, err := exec.Command(objcopy, "--dump-section", c.Name+"="+out, file, out+".copy").CombinedOutput(); err != nil {
			t.Fatalf("objcopy: %v\n%s", err, msg)
		}
		if got, _ := os.ReadFile(out); !bytes.Equal(bytes.TrimRight(got, "\x00"), c.Data) {
			t.Errorf("objcopy reads %d bytes of %s, want %d", len(got), c.Name, len(c.Data))
		}
	}
}

// TestParseRefuses breaks one thing in a good file and wants to be told which.
func TestParseRefuses(t *testing.T) {
	const coff, opt, section = 64, 88, 88 + 240
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[at:], v); return b }
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	again := func(name string, offset uint32) func([]byte) []byte {
		return func(b []byte) []byte { // another section, with contents at an offset
			put16(coff+6, 2)(b)
			second := b[section+sectionSize : section+2*sectionSize]
			copy(second, b[section:])
			clear(second[:8])
			copy(second, name)
			binary.LittleEndian.PutUint32(second[20:], offset)
			return b
		}
	}
	for _, c := range []struct {
		want  string
		spoil func([]byte) []byte
	}{
		{"beyond its 0 bytes", func([]byte) []byte { return nil }},
		{"no MZ signature", put16(0, 0)},
		{"PE header at offset 1073741824", put32(60, 1<<30)},
		{"PE header at offset 0", put32(60, 0)},
		{"no PE signature", put32(coff, 0)},
		{"97 sections", put16(coff+6, maxSections+1)},
		{"optional header of 63 bytes", put16(coff+20, optionalMin-1)},
		{"optional header of 1025 bytes", put16(coff+20, optionalMax+1)},
		{"optional header magic", put16(opt, 0x107)},
		{"the file at 1536", put32(section+16, 1<<31)},
		{"the file at 1536", put32(section+20, 1537)},
		{"bytes at offset", func(b []byte) []byte { return b[:section+sectionSize-1] }},
		{"section name", func(b []byte) []byte { copy(b[section:], ".a\x00b"); return b }},
		{"section name", func(b []byte) []byte { copy(b[section:], "\x00b"); return b }},
		{"PE header at offset 3", put32(60, 3)},
		{"overlaps another", again(".data", 1024)},
		{"overlaps another", again(".data", 600)},
	} {
		b := c.spoil(testStub(1024))
		if _, err := Parse(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error is %v, want %v with %q", err, ErrFormat, c.want)
		}
	}
	for name, change := range map[string]func([]byte) []byte{ // all this is just right
		"sections":        func(b []byte) []byte { b = append(b, make([]byte, 4096)...); return put16(coff+6, maxSections)(b) },
		"smallest header": func(b []byte) []byte { clear(b[section-200:]); return put16(coff+20, optionalMin)(b) },
		"largest header": func(b []byte) []byte {
			clear(b[section:])
			return put16(coff+20, optionalMax)(append(b, make([]byte, 512)...))
		},
		"empty section":   put32(section+20, 0),
		"at the end":      func(b []byte) []byte { return put32(section+16, 0)(put32(section+20, 1536)(b)) },
		"nothing behind":  func(b []byte) []byte { return put32(section+20, 0)(b)[:section+sectionSize] },
		"no gap":          again(".data", 1024-512),
		"name of 8 bytes": func(b []byte) []byte { copy(b[section:], "12345678"); return b },
	} {
		b := change(testStub(1024))
		if _, err := Parse(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var twice bytes.Buffer
	if err := Build(&twice, testStub(1024), []Content{{".linux", []byte("a")}, {".linux", []byte("b")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(bytes.NewReader(twice.Bytes()), int64(twice.Len())); !errors.Is(err, ErrFormat) {
		t.Errorf("two .linux: %v", err)
	}
}

func TestIsUKI(t *testing.T) {
	for want, names := range map[bool][][]string{
		true:  {{".linux", ".osrel"}, {".linux", ".cmdline"}, {".linux", ".initrd"}},
		false: {{}, {".linux"}, {".osrel", ".cmdline", ".initrd"}, {".linux", ".text"}},
	} {
		for _, n := range names {
			var f File
			for _, name := range n {
				f.Sections = append(f.Sections, Section{Name: name})
			}
			if f.IsUKI() != want {
				t.Errorf("a file with %q: IsUKI() = %v", n, !want)
			}
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	stub := func(at int, v uint32) []byte {
		b := testStub(512)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	many := make([]Content, maxSections)
	for i := range many {
		many[i] = Content{".x", []byte("x")}
	}
	for _, c := range []struct {
		want string
		stub []byte
		add  []Content
	}{
		{"alignments 0 and 512", stub(88+32, 0), testContents()},
		{"alignments 4096 and 0", stub(88+36, 0), testContents()},
		{"alignments 4096 and 513", stub(88+36, 513), testContents()},
		{"no room between", stub(88+240+20, 100), testContents()},
		{"no room for 96 more", testStub(512), many},
		{"no room for 4 more", stub(88+240+12, 400), testContents()},
		{`section "" of`, testStub(512), []Content{{"", []byte("x")}}},
		{`section ".too-long" of`, testStub(512), []Content{{".too-long", []byte("x")}}},
		{"of 0 bytes", testStub(512), []Content{{".empty", nil}}},
		{"above 2 GiB", stub(88+240+12, 0x7ffff000), testContents()},
	} {
		if err := Build(io.Discard, c.stub, c.add); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error is %v, want %v with %q", err, ErrFormat, c.want)
		}
	}
}

func TestBzImage(t *testing.T) {
	b := make([]byte, 0x1000)
	le := binary.LittleEndian
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	le.PutUint16(b[0x20e:], 0x400)
	le.PutUint32(b[0x238:], 2047)
	le.PutUint32(b[0x260:], 1<<24)
	b[0x211], b[0x236] = 1, 3
	copy(b[0x600:], "6.1.0-test (builder) #1")
	got, err := ParseBzImage(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if want := (BzImage{0x20f, 2047, 1 << 24, true, "6.1.0-test (builder) #1"}); *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	for name, spoil := range map[string]func(b []byte) []byte{
		"protocol 2.11":   func(b []byte) []byte { le.PutUint16(b[0x206:], 0x20b); return b },
		"zImage":          func(b []byte) []byte { b[0x211] = 0; return b },
		"32 bits":         func(b []byte) []byte { b[0x236] = 2; return b },
		"below 4 GiB":     func(b []byte) []byte { b[0x236] = 1; return b },
		"less than 1 KiB": func(b []byte) []byte { b[0x20f] = 0; return b[:1023] },
	} {
		b := spoil(bytes.Clone(b))
		if got, err := ParseBzImage(bytes.NewReader(b), int64(len(b))); err != nil || got.Load64 {
			t.Errorf("%s: %+v, %v, want one that a 64-bit kernel does not load", name, got, err)
		}
	}
	for protocol, size := range map[uint16]int64{0x206: 0, 0x209: 0, 0x20a: 1 << 24} { // older ones do not say how much room they need
		le.PutUint16(b[0x206:], protocol)
		copy(b[0x600:], "6.1 ~\x7f")
		got, err := ParseBzImage(bytes.NewReader(b), int64(len(b)))
		if err != nil || got.InitSize != size || got.Version != "6.1 ~" {
			t.Errorf("protocol %#x: %+v, %v", protocol, got, err)
		}
	}
	for want, spoil := range map[string]func(){
		"older than 0x206":   func() { le.PutUint16(b[0x206:], 0x205) },
		"no x86 boot header": func() { b[0x202] = 'h' },
	} {
		good := bytes.Clone(b)
		spoil()
		if _, err := ParseBzImage(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %v with %q", err, ErrFormat, want)
		}
		copy(b, good)
	}
}

// zbootOf wraps a compressed kernel as the kernel's build does.
func zbootOf(compression string, payload []byte) []byte {
	b := make([]byte, 64, 64+len(payload))
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], 64)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(payload)))
	copy(b[24:], compression)
	return append(b, payload...)
}

func TestZboot(t *testing.T) {
	kernel := strings.Repeat("ARM64 kernel ", 5000)
	for compression, tool := range map[string][]string{
		"gzip": {"gzip", "-c"}, "zstd22": {"zstd", "-c"}, "xzkern": {"xz", "-c", "--check=crc32"}, "lzma": {"xz", "-c", "--format=lzma"},
	} {
		t.Run(compression, func(t *testing.T) {
			if _, err := exec.LookPath(tool[0]); err != nil {
				t.Skip(tool[0], "is not installed")
			}
			cmd := exec.Command(tool[0], tool[1:]...)
			cmd.Stdin = strings.NewReader(kernel)
			payload, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			b := zbootOf(compression, payload)
			z, err := ParseZboot(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := z.Unwrap(&out, bytes.NewReader(b), int64(len(kernel))); err != nil || out.String() != kernel {
				t.Errorf("unwrapped %d bytes, %v; want %d", out.Len(), err, len(kernel))
			}
			if err := z.Unwrap(io.Discard, bytes.NewReader(b), int64(len(kernel))-1); !errors.Is(err, ErrFormat) {
				t.Errorf("above the limit: %v", err)
			}
		})
	}
}

func TestZbootRefuses(t *testing.T) {
	for want, change := range map[string]func([]byte){
		"no EFI zboot header":       func(b []byte) { b[4] = 'Z' },
		"no EFI":                    func(b []byte) { b[0] = 'm' },
		"payload of 7 bytes at 63":  func(b []byte) { b[8] = 63 },
		"payload of 8 bytes at 64":  func(b []byte) { b[12]++ },
		"payload of 7 bytes at 200": func(b []byte) { b[8] = 200 },
	} {
		b := zbootOf("gzip", []byte("payload"))
		change(b)
		if _, err := ParseZboot(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %v with %q", err, ErrFormat, want)
		}
	}
	b := zbootOf("lz4", []byte("payload"))
	z, err := ParseZboot(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := z.Unwrap(io.Discard, bytes.NewReader(b), 100); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown compression: %v, want %v", err, ErrFormat)
	}
}

// FuzzParse checks that sections stay inside the file, and that a UKI built
// on anything that parses has the old sections and the new one.
func FuzzParse(f *testing.F) {
	f.Add(testStub(512))
	f.Add(testStub(1024))
	f.Add(zbootOf("gzip", []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if z, err := ParseZboot(r, int64(len(b))); err == nil {
			_ = z.Unwrap(io.Discard, r, 1<<16)
		}
		_, _ = ParseBzImage(r, int64(len(b)))
		pe, err := Parse(r, int64(len(b)))
		if err != nil {
			return
		}
		var out bytes.Buffer
		added := Content{".fuzz", []byte("content")}
		if err := Build(&out, b, []Content{added}); err != nil {
			return
		}
		again, err := Parse(bytes.NewReader(out.Bytes()), int64(out.Len()))
		if err != nil {
			t.Fatalf("built on a good stub: %v", err)
		}
		if len(again.Sections) != len(pe.Sections)+1 {
			t.Fatalf("%d sections became %d", len(pe.Sections), len(again.Sections))
		}
		for i, s := range pe.Sections {
			old, err := io.ReadAll(s.Reader(r))
			if err != nil || int64(len(old)) != s.Size {
				t.Fatalf("section %q of %d bytes: read %d, %v", s.Name, s.Size, len(old), err)
			}
			now, _ := io.ReadAll(again.Sections[i].Reader(bytes.NewReader(out.Bytes())))
			if !bytes.Equal(old, now) {
				t.Fatalf("section %q changed", s.Name)
			}
		}
		now, _ := io.ReadAll(again.Sections[len(pe.Sections)].Reader(bytes.NewReader(out.Bytes())))
		if !bytes.Equal(now, added.Data) {
			t.Fatalf("added section holds %q", now)
		}
	})
}
