// Package xzstream decompresses the .xz format with bounded memory.
//
// A block of an xz file names the dictionary that its decoder must have, up to
// 4 GiB, and the decoder of github.com/ulikunitz/xz allocates what it is told. What
// this package reads has not been verified yet, so it reads the container itself
// and gives that decoder only dictionaries below a limit. Check sums over
// content are not computed: anyone who uses this knows the digest of all of it.
//
// Specification: The .xz File Format, version 1.2.1. Filters other than LZMA2
// are refused.
package xzstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

var (
	// ErrFormat is wrapped by errors about malformed input.
	ErrFormat = errors.New("malformed xz data")
	// ErrUnsupported is wrapped by errors about what is refused by design.
	ErrUnsupported = errors.New("unsupported xz data")
)

// MaxDict is the largest dictionary, in bytes; "xz -9" makes 64 MiB.
const MaxDict = 128 << 20

// dictsPerByte bounds the dictionaries of all blocks by what came out of them: a
// block takes 30 bytes and its dictionary 128 MiB, which have to be cleared. What
// xz makes has blocks of three dictionaries; one MaxDict and more is free.
const dictsPerByte = 4

// magic starts a stream, footerMagic ends it.
const (
	magic       = "\xfd7zXZ\x00"
	footerMagic = "YZ"
)

// checkSizes are the bytes of a block's check by its type (2.1.1.2).
var checkSizes = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

// Copy writes the content of all streams in r to w, and reads r to its end.
func Copy(w io.Writer, r io.Reader) error {
	in := &counter{r: bufio.NewReaderSize(r, 64<<10)}
	out := &output{w: w}
	for first := true; ; first = false {
		if err := in.skipPadding(!first); err != nil {
			return err
		}
		if _, err := in.r.Peek(1); err == io.EOF && !first {
			return nil
		}
		if err := copyStream(out, in); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// output knows how much was written, and what dictionaries were made for that.
type output struct {
	w        io.Writer
	n, dicts int64
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.n += int64(n)
	return n, err
}

// counter knows how much was read, for paddings.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// take reads n bytes, which are few.
func (c *counter) take(n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	return b, err
}

// skipPadding reads groups of four zero bytes between streams (2.2).
func (c *counter) skipPadding(allowed bool) error {
	for allowed {
		b, err := c.r.Peek(4)
		if len(b) == 0 || len(b) == 4 && !bytes.Equal(b, make([]byte, 4)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %d bytes after a stream", ErrFormat, len(b))
		}
		if _, err := c.take(4); err != nil {
			return err
		}
	}
	return nil
}

// align reads the zero bytes up to a multiple of four from start.
func (c *counter) align(start int64) error {
	b, err := c.take((start - c.n) & 3)
	if err == nil && bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) {
		err = fmt.Errorf("%w: padding that is not zero", ErrFormat)
	}
	return err
}

// sealed checks the little-endian CRC-32 that ends b, and returns what is before.
func sealed(b []byte) ([]byte, error) {
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: a header with a wrong check sum", ErrFormat)
	}
	return body, nil
}

// copyStream reads one stream: header, blocks, index and footer (2.1).
func copyStream(w *output, in *counter) error {
	head, err := in.take(12)
	if err != nil {
		return err
	}
	if string(head[:6]) != magic {
		return fmt.Errorf("%w: no stream header", ErrFormat)
	}
	flags, err := sealed(head[6:])
	if err != nil {
		return err
	}
	if flags[0] != 0 || flags[1] > 15 {
		return fmt.Errorf("%w: stream flags %x", ErrUnsupported, flags)
	}
	blocks := int64(0)
	for ; ; blocks++ {
		size, err := in.ReadByte()
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if err := copyBlock(w, in, size, checkSizes[flags[1]]); err != nil {
			return err
		}
	}
	if err := skipIndex(in, blocks); err != nil {
		return err
	}
	foot, err := in.take(12)
	if err != nil {
		return err
	}
	if string(foot[10:]) != footerMagic || !bytes.Equal(foot[8:10], flags) {
		return fmt.Errorf("%w: stream footer", ErrFormat)
	}
	return nil
}

// copyBlock reads one block; the first byte of its header was read (3).
func copyBlock(w *output, in *counter, size byte, check int64) error {
	start := in.n - 1
	rest, err := in.take(int64(size)*4 + 3)
	if err != nil {
		return err
	}
	header, err := sealed(append([]byte{size}, rest...))
	if err != nil {
		return err
	}
	dict, err := dictionary(header[1:])
	if err != nil {
		return err
	}
	if w.dicts += int64(dict); w.dicts > 2*MaxDict+dictsPerByte*w.n {
		return fmt.Errorf("%w: blocks that are much smaller than their dictionaries, which have %d MiB by now", ErrUnsupported, w.dicts>>20)
	}
	// The decoder reads not a byte more than its chunks have.
	z, err := lzma.Reader2Config{DictCap: dict}.NewReader2(in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if _, err := io.CopyBuffer(w, struct{ io.Reader }{z}, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("decompress xz block: %w", err)
	}
	if err := in.align(start); err != nil {
		return err
	}
	_, err = in.take(check)
	return err
}

// dictionary reads a block's header from its flags on (3.1.2 to 3.1.6, 5.3.1).
func dictionary(h []byte) (int, error) {
	r := bytes.NewReader(h)
	flags, err := r.ReadByte()
	if err == nil && flags&0x3f != 0 {
		return 0, fmt.Errorf("%w: block flags %#x: more than one filter", ErrUnsupported, flags)
	}
	for _, present := range []byte{0x40, 0x80} { // sizes, which are not needed
		if flags&present != 0 && err == nil {
			_, err = binary.ReadUvarint(r)
		}
	}
	var filter [3]byte // identifier, size of its properties, dictionary
	if err == nil {
		_, err = io.ReadFull(r, filter[:])
	}
	if err != nil {
		return 0, fmt.Errorf("%w: block header: %w", ErrFormat, err)
	}
	if filter[0] != 0x21 || filter[1] != 1 {
		return 0, fmt.Errorf("%w: filter %#x", ErrUnsupported, filter[0])
	}
	size, err := lzma.DecodeDictCap(filter[2])
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if size > MaxDict {
		return 0, fmt.Errorf("%w: a dictionary of %d MiB, at most %d MiB are read: compress with a lower level", ErrUnsupported, size>>20, MaxDict>>20)
	}
	return int(max(size, lzma.MinDictCap)), nil
}

// skipIndex reads the index, whose first byte was read (4).
func skipIndex(in *counter, blocks int64) error {
	start := in.n - 1
	n, err := binary.ReadUvarint(in)
	if err == nil && n != uint64(blocks) {
		err = fmt.Errorf("%w: an index of %d blocks after %d", ErrFormat, n, blocks)
	}
	for range 2 * blocks { // two sizes a block
		if err == nil {
			_, err = binary.ReadUvarint(in)
		}
	}
	if err != nil {
		return err
	}
	if err := in.align(start); err != nil {
		return err
	}
	_, err = in.take(4) // its check sum
	return err
}
