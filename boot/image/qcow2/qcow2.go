// Package qcow2 reads disk images in QEMU's qcow2 format, versions 2 and 3,
// from the first to the last byte of the disk they hold.
//
// Clusters may be plain, zero or compressed (deflate, zstd). What would make
// an image depend on something else is refused: backing files, external data
// files, encryption; so are internal snapshots' contents, which are simply not
// read. Every offset is checked against the file, tables are read one cluster
// at a time, and the size of the disk is bounded by the caller before anything
// is read.
//
// Specification: QEMU's docs/interop/qcow2.txt.
package qcow2

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

var (
	// ErrFormat is wrapped by every error about a malformed image.
	ErrFormat = errors.New("malformed qcow2 image")
	// ErrUnsupported is wrapped when an image uses what is refused by design.
	ErrUnsupported = errors.New("unsupported qcow2 image")
)

// Magic is how the files begin.
const Magic = "QFI\xfb"

const (
	headerV2, headerV3  = 72, 104
	minBits, maxBits    = 9, 21
	maxL1               = 4 << 20 // entries; 32 MiB as in QEMU
	incompatDirty       = 1 << 0  // reference counts only, which are not read
	incompatCompression = 1 << 3
	compressionZstd     = 1
	offsetMask          = 0x00fffffffffffe00
	flagCompressed      = 1 << 62
	flagZero            = 1 << 0
	sector              = 512
	compressionByte     = 104
)

// Image is an open image. Its methods may be used by one goroutine at a time.
type Image struct {
	r       io.ReaderAt
	file    int64 // bytes of the file
	size    int64 // bytes of the disk
	bits    uint  // of the cluster size
	version uint32
	zstd    bool
	l1      int64 // offset of the L1 table
	entries int64 // used entries of the L1 table
}

// Open reads the header of an image in a file of fileSize bytes. It refuses a
// disk of more than maxDisk bytes.
func Open(r io.ReaderAt, fileSize, maxDisk int64) (*Image, error) {
	h := make([]byte, headerV3+8)
	if n, err := r.ReadAt(h, 0); n < headerV2 {
		return nil, fmt.Errorf("%w: header of %d bytes: %w", ErrFormat, n, err)
	}
	be := binary.BigEndian
	i := &Image{r: r, file: fileSize, version: be.Uint32(h[4:]), bits: uint(be.Uint32(h[20:]))}
	if string(h[:4]) != Magic || i.version != 2 && i.version != 3 {
		return nil, fmt.Errorf("%w: magic %q, version %d", ErrFormat, h[:4], i.version)
	}
	if i.bits < minBits || i.bits > maxBits {
		return nil, fmt.Errorf("%w: clusters of 2^%d bytes", ErrFormat, i.bits)
	}
	if be.Uint64(h[8:]) != 0 {
		return nil, fmt.Errorf("%w: it needs a backing file; flatten it with qemu-img convert", ErrUnsupported)
	}
	if be.Uint32(h[32:]) != 0 {
		return nil, fmt.Errorf("%w: it is encrypted", ErrUnsupported)
	}
	if err := i.features(h); err != nil {
		return nil, err
	}
	size := be.Uint64(h[24:])
	if size > uint64(maxDisk) {
		return nil, fmt.Errorf("%w: a disk of %d bytes, allowed are %d", ErrUnsupported, size, maxDisk)
	}
	i.size = int64(size)
	return i, i.findL1(int64(be.Uint32(h[36:])), be.Uint64(h[40:]))
}

// features reads what version 3 added to the header.
func (i *Image) features(h []byte) error {
	if i.version < 3 {
		return nil
	}
	be := binary.BigEndian
	incompatible, length := be.Uint64(h[72:]), be.Uint32(h[100:])
	if bad := incompatible &^ (incompatDirty | incompatCompression); bad != 0 {
		return fmt.Errorf("%w: incompatible features %#x (corrupt, external data or extended tables); convert it with qemu-img", ErrUnsupported, bad)
	}
	if incompatible&incompatCompression == 0 {
		return nil
	}
	if length <= compressionByte || h[compressionByte] > compressionZstd {
		return fmt.Errorf("%w: compression type %d in a header of %d bytes", ErrUnsupported, h[compressionByte], length)
	}
	i.zstd = h[compressionByte] == compressionZstd
	return nil
}

// findL1 checks that the first table is in the file and covers the disk.
func (i *Image) findL1(entries int64, offset uint64) error {
	perTable := int64(1) << (i.bits - 3)
	perEntry := perTable << i.bits
	i.entries = i.size/perEntry + min(i.size%perEntry, 1)
	if i.entries > entries || entries > maxL1 {
		return fmt.Errorf("%w: L1 table of %d entries for %d bytes", ErrFormat, entries, i.size)
	}
	if offset > math.MaxInt64 || !i.inFile(int64(offset), i.entries*8) || offset%(1<<i.bits) != 0 {
		return fmt.Errorf("%w: L1 table at %d", ErrFormat, offset)
	}
	i.l1 = int64(offset)
	return nil
}

func (i *Image) inFile(offset, size int64) bool {
	return offset >= 0 && offset <= i.file && size <= i.file-offset
}

// Copy writes the whole disk to w, in order, zeros included.
func (i *Image) Copy(ctx context.Context, w io.Writer) error {
	c := &copier{Image: i, w: w, cluster: make([]byte, 1<<i.bits), table: make([]byte, 1<<i.bits), left: i.size}
	defer c.close()
	entry := make([]byte, 8)
	for n := range i.entries {
		if _, err := i.r.ReadAt(entry, i.l1+8*n); err != nil {
			return fmt.Errorf("read L1 table: %w", err)
		}
		if err := c.copyTable(ctx, binary.BigEndian.Uint64(entry)); err != nil {
			return fmt.Errorf("copy qcow2 disk at %d: %w", i.size-c.left, err)
		}
	}
	return nil
}

// copier holds the buffers of one Copy.
type copier struct {
	*Image
	w       io.Writer
	table   []byte // an L2 table
	cluster []byte
	packed  []byte
	left    int64 // bytes of the disk that are still to be written
	decoder *zstd.Decoder
}

func (c *copier) close() {
	if c.decoder != nil {
		c.decoder.Close()
	}
}

// copyTable writes the clusters of one L2 table.
func (c *copier) copyTable(ctx context.Context, entry uint64) error {
	offset := int64(entry & offsetMask)
	if offset == 0 {
		clear(c.table) // nothing is allocated
	} else if err := c.read(c.table, offset); err != nil {
		return fmt.Errorf("L2 table: %w", err)
	}
	for at := 0; at < len(c.table) && c.left > 0; at += 8 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.fill(binary.BigEndian.Uint64(c.table[at:])); err != nil {
			return err
		}
		n, err := c.w.Write(c.cluster[:min(int64(len(c.cluster)), c.left)])
		c.left -= int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// fill reads the cluster that an L2 entry stands for.
func (c *copier) fill(entry uint64) error {
	offset := int64(entry & offsetMask)
	switch {
	case entry&flagCompressed != 0:
		return c.decompress(entry)
	case offset == 0, c.version >= 3 && entry&flagZero != 0:
		clear(c.cluster)
		return nil
	case offset&(1<<c.bits-1) != 0:
		return fmt.Errorf("%w: cluster at %d is not aligned", ErrFormat, offset)
	}
	return c.read(c.cluster, offset)
}

// read fills p from the file. QEMU lets the last cluster of a file be short;
// the rest is zero.
func (c *copier) read(p []byte, offset int64) error {
	if !c.inFile(offset, 1) {
		return fmt.Errorf("%w: cluster at %d, the file has %d bytes", ErrFormat, offset, c.file)
	}
	have := min(int64(len(p)), c.file-offset)
	clear(p[have:])
	if n, err := c.r.ReadAt(p[:have], offset); int64(n) < have {
		return fmt.Errorf("read %d bytes at %d: %w", have, offset, err)
	}
	return nil
}

// decompress reads a compressed cluster: its entry has an offset in the low
// bits and the number of further sectors above.
func (c *copier) decompress(entry uint64) error {
	split := 62 - (c.bits - 8)
	offset := int64(entry & (1<<split - 1))
	sectors := int64(entry&(1<<62-1)>>split) + 1
	size := sectors*sector - offset&(sector-1)
	if !c.inFile(offset, 1) {
		return fmt.Errorf("%w: compressed cluster at %d", ErrFormat, offset)
	}
	size = min(size, c.file-offset)
	if int64(cap(c.packed)) < size {
		c.packed = make([]byte, size) // at most a cluster and a sector
	}
	c.packed = c.packed[:size]
	if n, err := c.r.ReadAt(c.packed, offset); int64(n) < size {
		return fmt.Errorf("read %d bytes at %d: %w", size, offset, err)
	}
	in, err := c.decompressor()
	if err == nil {
		_, err = io.ReadFull(in, c.cluster)
	}
	if err != nil {
		return fmt.Errorf("%w: compressed cluster at %d: %w", ErrFormat, offset, err)
	}
	return nil
}

// decompressor reads what is in c.packed.
func (c *copier) decompressor() (io.Reader, error) {
	in := bytes.NewReader(c.packed)
	if !c.zstd {
		return flate.NewReader(in), nil
	}
	if c.decoder == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(max(1<<maxBits, zstd.MinWindowSize)))
		if err != nil {
			return nil, err
		}
		c.decoder = d
	}
	return c.decoder, c.decoder.Reset(in)
}
