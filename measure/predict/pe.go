package predict

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// ErrPE means that something is not an EFI executable.
var ErrPE = errors.New("not a PE executable")

const (
	maxHeaders       = 64 << 10 // bytes of a PE file that hold headers
	maxSections      = 96
	peOffsetAt       = 0x3c
	coffHeaderSize   = 24 // signature included
	sectionEntrySize = 40
	magicPE32        = 0x10b
	magicPE32Plus    = 0x20b
	securityEntry    = 4       // of the data directories
	maxPadding       = 1 << 20 // of a section in memory, beyond the file
)

// image is as much of a PE file as its digest depends on.
type image struct {
	r        io.ReaderAt
	size     int64
	headers  int64 // SizeOfHeaders
	checksum int64 // offset of the 4-byte CheckSum
	security int64 // offset of the 8-byte directory entry, 0 if there is none
	certSize int64 // of the attribute certificates, which end the file
	sections []section
}

type section struct {
	name          string
	virtualSize   int64
	offset, bytes int64 // in the file
}

// parseImage reads the headers of the PE file that r's first size bytes are.
func parseImage(r io.ReaderAt, size int64) (*image, error) {
	header := make([]byte, min(size, maxHeaders))
	if _, err := r.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read PE headers: %w", err)
	}
	if len(header) < peOffsetAt+4 || string(header[:2]) != "MZ" {
		return nil, fmt.Errorf("%w: no DOS header", ErrPE)
	}
	pe := int64(binary.LittleEndian.Uint32(header[peOffsetAt:]))
	if pe+coffHeaderSize > int64(len(header)) || string(header[pe:pe+4]) != "PE\x00\x00" {
		return nil, fmt.Errorf("%w: no PE header", ErrPE)
	}
	count := int(binary.LittleEndian.Uint16(header[pe+6:]))
	optionalSize := int64(binary.LittleEndian.Uint16(header[pe+20:]))
	optional, table := pe+coffHeaderSize, pe+coffHeaderSize+optionalSize
	if count > maxSections || table+int64(count)*sectionEntrySize > int64(len(header)) {
		return nil, fmt.Errorf("%w: %d sections that do not fit", ErrPE, count)
	}
	img := &image{r: r, size: size}
	if err := img.parseOptional(header[optional:table], optional); err != nil {
		return nil, err
	}
	for i := range count {
		entry := header[table+int64(i)*sectionEntrySize:]
		if err := img.parseSection(entry[:sectionEntrySize]); err != nil {
			return nil, err
		}
	}
	if img.headers < table+int64(count)*sectionEntrySize || img.headers > size {
		return nil, fmt.Errorf("%w: headers of %d bytes", ErrPE, img.headers)
	}
	return img, nil
}

// parseOptional decodes the optional header, which is at an offset of the file.
func (img *image) parseOptional(b []byte, at int64) error {
	const sizeOfHeaders, checksum = 60, 64
	if len(b) < checksum+4 {
		return fmt.Errorf("%w: optional header of %d bytes", ErrPE, len(b))
	}
	var directories int // offset of NumberOfRvaAndSizes
	switch magic := binary.LittleEndian.Uint16(b); magic {
	case magicPE32:
		directories = 92
	case magicPE32Plus:
		directories = 108
	default:
		return fmt.Errorf("%w: optional header of kind %#x", ErrPE, magic)
	}
	img.headers = int64(binary.LittleEndian.Uint32(b[sizeOfHeaders:]))
	img.checksum = at + checksum
	entry := directories + 4 + securityEntry*8
	if len(b) < entry+8 || binary.LittleEndian.Uint32(b[directories:]) <= securityEntry {
		return nil
	}
	img.security = at + int64(entry)
	offset, size := int64(binary.LittleEndian.Uint32(b[entry:])), int64(binary.LittleEndian.Uint32(b[entry+4:]))
	if size != 0 && offset+size != img.size {
		return fmt.Errorf("%w: the certificates are not at its end", ErrPE)
	}
	img.certSize = size
	return nil
}

func (img *image) parseSection(b []byte) error {
	s := section{
		name:        strings.TrimRight(string(b[:8]), "\x00"),
		virtualSize: int64(binary.LittleEndian.Uint32(b[8:])),
		bytes:       int64(binary.LittleEndian.Uint32(b[16:])),
		offset:      int64(binary.LittleEndian.Uint32(b[20:])),
	}
	if s.bytes > 0 && s.offset+s.bytes > img.size-img.certSize {
		return fmt.Errorf("%w: section %q ends at %d, the file at %d", ErrPE, s.name, s.offset+s.bytes, img.size-img.certSize)
	}
	img.sections = append(img.sections, s)
	return nil
}

// section returns a section's content as it is in memory: cut or filled with
// zeros to its virtual size. It is nil if there is no such section; two of one
// name are an error, since no one would agree on which one counts.
func (img *image) section(name string) (io.ReaderAt, int64, error) {
	at := slices.IndexFunc(img.sections, func(s section) bool { return s.name == name })
	if at < 0 {
		return nil, 0, nil
	}
	s := img.sections[at]
	if slices.ContainsFunc(img.sections[at+1:], func(o section) bool { return o.name == name }) {
		return nil, 0, fmt.Errorf("%w: two sections %q", ErrPE, name)
	}
	if s.virtualSize-s.bytes > maxPadding {
		return nil, 0, fmt.Errorf("%w: section %q has %d bytes in the file and %d in memory", ErrPE, name, s.bytes, s.virtualSize)
	}
	return padded{io.NewSectionReader(img.r, s.offset, min(s.bytes, s.virtualSize))}, s.virtualSize, nil
}

// padded is a reader with endless zeros behind it.
type padded struct{ *io.SectionReader }

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.SectionReader.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		clear(b[n:])
		return len(b), nil
	}
	return n, err
}

// Authenticode returns the digests of an EFI executable that firmware extends into
// PCR 4 when it starts it, and that a signature for Secure Boot is over: the file
// without its checksum and its signatures ("Windows Authenticode Portable
// Executable Signature Format", calculating the PE image hash).
func Authenticode(r io.ReaderAt, size int64, banks []tpm2.TPMAlgID) (Digests, error) {
	img, err := parseImage(r, size)
	if err != nil {
		return nil, fmt.Errorf("Authenticode digest: %w", err)
	}
	h, err := newHashes(banks)
	if err != nil {
		return nil, fmt.Errorf("Authenticode digest: %w", err)
	}
	if err := img.hash(h); err != nil {
		return nil, fmt.Errorf("Authenticode digest: %w", err)
	}
	return h.digests(), nil
}

func (img *image) hash(h hashes) error {
	parts := [][2]int64{{0, img.checksum}}
	if img.security == 0 {
		parts = append(parts, [2]int64{img.checksum + 4, img.headers})
	} else {
		parts = append(parts, [2]int64{img.checksum + 4, img.security}, [2]int64{img.security + 8, img.headers})
	}
	hashed := img.headers
	sections := slices.Clone(img.sections)
	slices.SortStableFunc(sections, func(a, b section) int { return cmp.Compare(a.offset, b.offset) })
	for _, s := range sections {
		if s.bytes > 0 {
			parts = append(parts, [2]int64{s.offset, s.offset + s.bytes})
			hashed += s.bytes
		}
	}
	// What is left is counted, not located, as EDK II does.
	if end := img.size - img.certSize; hashed < end {
		parts = append(parts, [2]int64{hashed, end})
	}
	for _, p := range parts {
		if err := h.copyRange(img.r, p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}
