// Package uki reads and builds unified kernel images, and reads the two kernel
// file formats that matter before kexec: the x86 bzImage header and the EFI
// zboot envelope of arm64 and riscv64.
//
// The parsers are for hostile input: every offset is checked against the size
// of the file before it is used, tables are bounded, and overlapping or
// duplicate sections are refused. [Build] depends on its input alone.
//
// Specifications: Microsoft's PE/COFF, the UAPI group's "Unified Kernel Image",
// the kernel's Documentation/arch/x86/boot.rst.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrFormat is wrapped by every error about a malformed file.
var ErrFormat = errors.New("malformed boot image")

// Machine types of [File.Machine].
const (
	MachineAMD64   = 0x8664
	MachineARM64   = 0xaa64
	MachineRISCV64 = 0x5064
)

const (
	maxSections  = 96 // what Windows and EDK2 accept
	sectionSize  = 40 // bytes of a section header
	fileHeader   = 20 // bytes of the COFF header
	optionalMin  = 64 // what is needed of the optional header
	optionalMax  = 1024
	maxPEOffset  = 1 << 16
	magicPE32    = 0x10b
	magicPE32p   = 0x20b
	peSignature  = "PE\x00\x00"
	dosSignature = "MZ"
)

// Section is one section of a PE file.
type Section struct {
	Name            string // without the padding
	Offset          int64  // of its content in the file, bytes
	Size            int64  // bytes of content in the file, padding removed
	VirtualAddress  uint32
	VirtualSize     uint32 // bytes in memory
	Characteristics uint32

	raw int64 // bytes in the file with the padding to the file alignment
}

// Reader returns the section's content out of the file it was parsed from.
func (s Section) Reader(r io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(r, s.Offset, s.Size)
}

// File is what the headers of a PE file say.
type File struct {
	Machine  uint16
	Sections []Section

	peOffset    int64 // of the PE signature
	table       int64 // of the section table
	fileAlign   uint32
	memAlign    uint32
	sizeOfImage uint32
	headersSize uint32
}

// Section returns the section of that name. The parser made sure that there
// is at most one of those that a UKI uses.
func (f *File) Section(name string) (Section, bool) {
	for _, s := range f.Sections {
		if s.Name == name {
			return s, true
		}
	}
	return Section{}, false
}

// IsUKI tells a unified kernel image from other PE files: it has both a
// ".linux" section and an ".osrel" or a ".cmdline" or an ".initrd" section.
func (f *File) IsUKI() bool {
	if _, ok := f.Section(".linux"); !ok {
		return false
	}
	return slices.ContainsFunc([]string{".osrel", ".cmdline", ".initrd"}, func(name string) bool {
		_, ok := f.Section(name)
		return ok
	})
}

// Parse reads the headers of a PE file of size bytes.
func Parse(r io.ReaderAt, size int64) (*File, error) {
	dos := make([]byte, 64)
	if err := readAt(r, dos, 0, size); err != nil {
		return nil, err
	}
	if string(dos[:2]) != dosSignature {
		return nil, fmt.Errorf("%w: no MZ signature, not a PE file", ErrFormat)
	}
	f := &File{peOffset: int64(binary.LittleEndian.Uint32(dos[60:]))}
	if f.peOffset < 4 || f.peOffset > maxPEOffset {
		return nil, fmt.Errorf("%w: PE header at offset %d", ErrFormat, f.peOffset)
	}
	coff := make([]byte, 4+fileHeader)
	if err := readAt(r, coff, f.peOffset, size); err != nil {
		return nil, err
	}
	if string(coff[:4]) != peSignature {
		return nil, fmt.Errorf("%w: no PE signature at offset %d", ErrFormat, f.peOffset)
	}
	f.Machine = binary.LittleEndian.Uint16(coff[4:])
	count := int(binary.LittleEndian.Uint16(coff[6:]))
	optSize := int(binary.LittleEndian.Uint16(coff[20:]))
	if count > maxSections || optSize < optionalMin || optSize > optionalMax {
		return nil, fmt.Errorf("%w: %d sections, optional header of %d bytes", ErrFormat, count, optSize)
	}
	opt := make([]byte, optSize)
	if err := readAt(r, opt, f.peOffset+4+fileHeader, size); err != nil {
		return nil, err
	}
	if m := binary.LittleEndian.Uint16(opt); m != magicPE32p && m != magicPE32 {
		return nil, fmt.Errorf("%w: optional header magic %#x", ErrFormat, m)
	}
	f.memAlign = binary.LittleEndian.Uint32(opt[32:])
	f.fileAlign = binary.LittleEndian.Uint32(opt[36:])
	f.sizeOfImage = binary.LittleEndian.Uint32(opt[56:])
	f.headersSize = binary.LittleEndian.Uint32(opt[60:])
	f.table = f.peOffset + 4 + fileHeader + int64(optSize)
	table := make([]byte, count*sectionSize)
	if err := readAt(r, table, f.table, size); err != nil {
		return nil, err
	}
	for ; len(table) > 0; table = table[sectionSize:] {
		s, err := parseSection(table[:sectionSize], size)
		if err != nil {
			return nil, err
		}
		f.Sections = append(f.Sections, s)
	}
	return f, f.check()
}

func parseSection(b []byte, size int64) (Section, error) {
	s := Section{
		Name:            strings.TrimRight(string(b[:8]), "\x00"),
		VirtualSize:     binary.LittleEndian.Uint32(b[8:]),
		VirtualAddress:  binary.LittleEndian.Uint32(b[12:]),
		raw:             int64(binary.LittleEndian.Uint32(b[16:])),
		Offset:          int64(binary.LittleEndian.Uint32(b[20:])),
		Characteristics: binary.LittleEndian.Uint32(b[36:]),
	}
	if strings.IndexByte(s.Name, 0) >= 0 {
		return s, fmt.Errorf("%w: section name %q", ErrFormat, s.Name)
	}
	if s.Offset == 0 { // no content, such as .bss
		s.raw = 0
	}
	if s.Offset > size || s.raw > size-s.Offset {
		return s, fmt.Errorf("%w: section %q ends at %d, the file at %d", ErrFormat, s.Name, s.Offset+s.raw, size)
	}
	// The virtual size tells the content from the padding behind it.
	s.Size = min(s.raw, int64(s.VirtualSize))
	return s, nil
}

// check refuses files that two readers could understand differently: the
// sections that a UKI uses twice, or contents that overlap.
func (f *File) check() error {
	seen := map[string]bool{}
	byOffset := slices.Clone(f.Sections)
	slices.SortStableFunc(byOffset, func(a, b Section) int { return int(a.Offset - b.Offset) })
	var end int64
	for _, s := range byOffset {
		if s.raw == 0 {
			continue
		}
		if s.Offset < end {
			return fmt.Errorf("%w: section %q overlaps another", ErrFormat, s.Name)
		}
		end = s.Offset + s.raw
	}
	for _, s := range f.Sections {
		if isUKISection(s.Name) && seen[s.Name] {
			return fmt.Errorf("%w: two sections %q", ErrFormat, s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

// isUKISection knows the names of the UAPI specification that may occur once.
// (Multi-profile UKIs repeat them; they are refused.)
func isUKISection(name string) bool {
	return slices.Contains([]string{
		".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".dtb", ".ucode", ".splash", ".sbat", ".pcrpkey", ".pcrsig", ".profile",
	}, name)
}

// readAt fills p from offset off of a file of size bytes.
func readAt(r io.ReaderAt, p []byte, off, size int64) error {
	if off < 0 || off > size || int64(len(p)) > size-off {
		return fmt.Errorf("%w: %d bytes at offset %d are beyond its %d bytes", ErrFormat, len(p), off, size)
	}
	if n, err := r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read %d bytes at offset %d: %w", len(p), off, err)
	}
	return nil
}
