package uki

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Section flags of the PE format.
const (
	flagCode        = 0x00000020
	flagInitialized = 0x00000040
	flagExecute     = 0x20000000
	flagRead        = 0x40000000
)

// Content is one section that [Build] adds.
type Content struct {
	Name string // up to 8 bytes, such as ".linux"
	Data []byte // not empty
}

// Build writes to w the EFI stub with the sections appended in the given
// order, each at the next free address and with a virtual size of exactly its
// data, which is what systemd-stub measures. The same input gives the same
// bytes; nothing is signed and the (unused) check sum is zero.
func Build(w io.Writer, stub []byte, sections []Content) error {
	f, err := Parse(bytes.NewReader(stub), int64(len(stub)))
	if err != nil {
		return fmt.Errorf("read EFI stub: %w", err)
	}
	if f.memAlign == 0 || f.fileAlign == 0 || f.memAlign&(f.memAlign-1) != 0 || f.fileAlign&(f.fileAlign-1) != 0 {
		return fmt.Errorf("read EFI stub: %w: alignments %d and %d", ErrFormat, f.memAlign, f.fileAlign)
	}
	head, body, err := f.makeRoom(stub, len(sections))
	if err != nil {
		return fmt.Errorf("add sections to EFI stub: %w", err)
	}
	tail, err := f.appendSections(head, int64(len(head)+len(body)), sections)
	if err != nil {
		return fmt.Errorf("add sections to EFI stub: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return err
	}
	for i, s := range sections {
		if _, err := w.Write(make([]byte, tail[i])); err != nil {
			return err
		}
		if _, err := w.Write(s.Data); err != nil {
			return err
		}
	}
	_, err = w.Write(make([]byte, tail[len(sections)]))
	return err
}

// makeRoom splits the stub into headers and contents, and makes the headers
// long enough for n more entries of the section table. Contents move in the
// file by as much, never in memory. A signature or anything else behind the
// sections is cut off: it would not cover the result.
func (f *File) makeRoom(stub []byte, n int) (head, body []byte, err error) {
	first, last, lowest := int64(len(stub)), int64(0), uint32(math.MaxUint32)
	for _, s := range f.Sections {
		lowest = min(lowest, s.VirtualAddress)
		if s.raw > 0 {
			first, last = min(first, s.Offset), max(last, s.Offset+s.raw)
		}
	}
	used := f.table + int64(len(f.Sections))*sectionSize
	if first < used || last < first {
		return nil, nil, fmt.Errorf("%w: no room between its headers and its sections", ErrFormat)
	}
	need := used + int64(n)*sectionSize
	if len(f.Sections)+n > maxSections || need > int64(lowest) {
		return nil, nil, fmt.Errorf("%w: no room for %d more sections", ErrFormat, n)
	}
	size := align(max(need, first), int64(f.fileAlign))
	head = make([]byte, size)
	copy(head, stub[:used])
	for i, s := range f.Sections {
		if s.raw > 0 {
			put32(head, f.table+int64(i)*sectionSize+20, s.Offset+size-first)
		}
	}
	opt := f.peOffset + 4 + fileHeader
	put32(head, f.peOffset+4+8, 0)  // COFF symbol table: it may have been cut off
	put32(head, f.peOffset+4+12, 0) // number of symbols
	put32(head, opt+60, size)       // SizeOfHeaders
	put32(head, opt+64, 0)          // CheckSum
	f.dropCertificates(head)
	return head, stub[first:last], nil
}

// dropCertificates clears the directory entry of a signature.
func (f *File) dropCertificates(head []byte) {
	opt := f.peOffset + 4 + fileHeader
	directories := opt + 112 // of a PE32+ file
	if binary.LittleEndian.Uint16(head[opt:]) == magicPE32 {
		directories = opt + 96
	}
	const certificates = 4
	if at := directories + 8*certificates; at+8 <= f.table && binary.LittleEndian.Uint32(head[directories-4:]) > certificates {
		clear(head[at : at+8])
	}
}

// appendSections adds the entries to the section table in head, for contents
// that start at file offset off, and returns the zero bytes needed before each
// content, and after the last.
func (f *File) appendSections(head []byte, off int64, sections []Content) (gaps []int64, err error) {
	address := int64(0)
	for _, s := range f.Sections {
		address = max(address, int64(s.VirtualAddress)+int64(max(s.VirtualSize, uint32(s.raw))))
	}
	at := f.table + int64(len(f.Sections))*sectionSize
	for _, s := range sections {
		if s.Name == "" || len(s.Name) > 8 || len(s.Data) == 0 {
			return nil, fmt.Errorf("%w: section %q of %d bytes", ErrFormat, s.Name, len(s.Data))
		}
		start := align(off, int64(f.fileAlign))
		gaps = append(gaps, start-off)
		size, raw := int64(len(s.Data)), align(int64(len(s.Data)), int64(f.fileAlign))
		address = align(address, int64(f.memAlign))
		if address+size > math.MaxInt32 || start+raw > math.MaxInt32 {
			return nil, fmt.Errorf("%w: section %q of %d bytes ends above 2 GiB", ErrFormat, s.Name, size)
		}
		copy(head[at:at+8], s.Name)
		put32(head, at+8, size)
		put32(head, at+12, address)
		put32(head, at+16, raw)
		put32(head, at+20, start)
		put32(head, at+36, int64(flags(s.Name)))
		at, off, address = at+sectionSize, start+size, address+size
	}
	gaps = append(gaps, align(off, int64(f.fileAlign))-off)
	binary.LittleEndian.PutUint16(head[f.peOffset+6:], uint16(len(f.Sections)+len(sections)))
	put32(head, f.peOffset+4+fileHeader+56, align(address, int64(f.memAlign))) // SizeOfImage
	return gaps, nil
}

// flags marks the kernel as code, because old stubs execute it where it is.
func flags(name string) uint32 {
	if name == ".linux" {
		return flagCode | flagExecute | flagRead
	}
	return flagInitialized | flagRead
}

func align(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }

func put32(b []byte, at, v int64) { binary.LittleEndian.PutUint32(b[at:], uint32(v)) }
