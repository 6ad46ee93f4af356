// Package esp makes the disk that firmware boots from: a GUID partition table
// with one EFI system partition. Everything in it is fixed or derived from the
// files (identifiers, serial number, dates), because firmware measures the
// partition table, and because images should be reproducible.
//
// It knows what a boot medium needs and no more: FAT16 of one size, short upper-case
// names. Specifications: UEFI 2.10 section 5 (GPT) and 13.3 (EFI system partition),
// Microsoft's "FAT: General Overview of On-Disk Format" 1.03.
package esp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/sealboot/sealboot/measure/atomicfile"
)

// Geometry, in sectors of 512 bytes.
const (
	sector    = 512
	partStart = 2048              // 1 MiB, the usual alignment
	partSize  = 64 << 20 / sector // room for two loaders and more
	tableSize = 32                // 128 entries of 128 bytes
	diskSize  = partStart + partSize + 2048
)

// Size is the size of every image, in bytes.
const Size = diskSize * sector

// ErrFiles means that the files cannot be put on the partition.
var ErrFiles = errors.New("esp: unfit files")

// Create writes an image with the files, given by slash-separated path, to the
// file name, which is whole or absent.
func Create(name string, files map[string][]byte) error {
	image, err := Image(files)
	if err != nil {
		return err
	}
	err = atomicfile.Fill(name, 0o644, func(f *os.File) error { return writeSparse(f, image) })
	if err != nil {
		return fmt.Errorf("esp: %w", err)
	}
	return nil
}

// writeSparse leaves holes where the image is empty.
func writeSparse(f *os.File, image []byte) error {
	const block = 64 << 10
	empty := make([]byte, block)
	if err := f.Truncate(int64(len(image))); err != nil {
		return err
	}
	for off := 0; off < len(image); off += block {
		part := image[off:min(off+block, len(image))]
		if bytes.Equal(part, empty[:len(part)]) {
			continue
		}
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			return err
		}
	}
	return nil
}

// Image returns the whole disk, Size bytes.
func Image(files map[string][]byte) ([]byte, error) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name])
		io.WriteString(h, name+"\x00")
		h.Write(sum[:])
	}
	identity := h.Sum(nil)
	image := make([]byte, Size)
	writeGPT(image)
	v := newVolume(image[partStart*sector:(partStart+partSize)*sector], binary.LittleEndian.Uint32(identity))
	if err := v.addTree(files); err != nil {
		return nil, err
	}
	return image, nil
}

// Partition identifiers. The disk's and the partition's own are of no use to
// anybody here, but PCR 5 covers them: they are the same for every loader.
var (
	typeESP  = guid{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	diskGUID = guid{'S', 'e', 'a', 'l', 'b', 'o', 'o', 0x44, 0x80, 'd', 'i', 's', 'k', 0, 0, 1}
	partGUID = guid{'S', 'e', 'a', 'l', 'b', 'o', 'o', 0x44, 0x80, 'p', 'a', 'r', 't', 0, 0, 1}
)

type guid [16]byte

// writeGPT writes the protective MBR and both copies of the partition table.
func writeGPT(image []byte) {
	mbr := image[446:]
	copy(mbr, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(mbr[8:], 1)
	binary.LittleEndian.PutUint32(mbr[12:], diskSize-1)
	image[510], image[511] = 0x55, 0xaa

	table := make([]byte, tableSize*sector)
	copy(table[0:], typeESP[:])
	copy(table[16:], partGUID[:])
	binary.LittleEndian.PutUint64(table[32:], partStart)
	binary.LittleEndian.PutUint64(table[40:], partStart+partSize-1)
	for i, c := range "sealboot" {
		binary.LittleEndian.PutUint16(table[56+2*i:], uint16(c))
	}
	copy(image[2*sector:], table)
	copy(image[(diskSize-1-tableSize)*sector:], table)
	gptHeader(image[1*sector:], table, 1, diskSize-1, 2)
	gptHeader(image[(diskSize-1)*sector:], table, diskSize-1, 1, diskSize-1-tableSize)
}

func gptHeader(h, table []byte, self, other, tableAt uint64) {
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], 2+tableSize)
	le.PutUint64(h[48:], diskSize-2-tableSize)
	copy(h[56:], diskGUID[:])
	le.PutUint64(h[72:], tableAt)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
}

// splitPath checks a path and returns its directories and its last name, in the
// eleven bytes of a directory entry.
func splitPath(name string) (dirs [][11]byte, base [11]byte, err error) {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		short, err := shortName(part)
		if err != nil {
			return nil, base, err
		}
		if i == len(parts)-1 {
			return dirs, short, nil
		}
		dirs = append(dirs, short)
	}
	return nil, base, nil
}

func shortName(name string) (short [11]byte, err error) {
	stem, ext, _ := strings.Cut(name, ".")
	legal := func(s string, most int) bool {
		return len(s) <= most && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
	}
	if stem == "" || !legal(stem, 8) || !legal(ext, 3) || name != strings.TrimSuffix(stem+"."+ext, ".") {
		return short, fmt.Errorf("%w: %q is not a name of 8+3 upper-case letters and digits", ErrFiles, name)
	}
	copy(short[:], fmt.Sprintf("%-8s%-3s", stem, ext))
	return short, nil
}
