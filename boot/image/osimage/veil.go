package osimage

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// medium is a disk that images are written to.
type medium interface {
	io.ReaderAt
	io.WriterAt
	Name() string
	// Sync returns when everything written will be there after a power cut.
	Sync() error
	// uncache has the next reads of the first size bytes come from the medium itself.
	uncache(size int64) error
}

// diskFile is a block device, or a file in its place.
type diskFile struct{ *os.File }

func (d diskFile) uncache(size int64) error {
	return unix.Fadvise(int(d.Fd()), 0, size, unix.FADV_DONTNEED)
}

const (
	veilBlock = 1 << 20 // bytes that are encrypted, and later decrypted, at a time
	veilTag   = 16      // bytes of a block's tag, which stays in memory
)

// veil writes a disk image that no one has verified yet.
//
// A mirror chooses what arrives, and power may be cut at any byte. So what arrives is written under a veil: encrypted
// with a key that exists in this process alone, so that no byte on the disk is one that the mirror chose. There is no
// partition table in it, no boot sector and no superblock, of whatever format and wherever it would be. Once the
// digest was right, lift decrypts the image in place. When it was wrong, or the process or the power is gone, the key is
// gone with it.
//
// The order of the writes is what makes a power cut harmless:
//
//  1. both ends of the disk are zeroed, and that is synced: what the disk held has no partition table any more;
//  2. the image is written, encrypted, but for its first MiB, which stays in memory;
//  3. lift, when the image was verified: all of it but the last two blocks; sync; these; sync; the first MiB; sync.
//
// So the first MiB, where all that boots begins, is on the disk only when everything behind it is. Each block is
// authenticated when it is read back: what is decrypted onto the disk is what was verified, or it is not written.
type veil struct {
	disk medium
	room int64 // bytes of the disk

	aead  cipher.AEAD
	block []byte          // not yet written
	head  []byte          // the first block
	tags  [][veilTag]byte // of the blocks behind it
	size  int64           // bytes given to Write

	touched, cleared bool // the disk is not what it was; its ends are zero
}

// begin makes v ready for an image's first byte, whatever came before.
func (v *veil) begin() (io.Writer, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if v.aead, err = cipher.NewGCM(c); err != nil {
		return nil, err
	}
	v.block, v.head, v.tags, v.size = make([]byte, 0, veilBlock+veilTag), nil, nil, 0
	return v, nil
}

func (v *veil) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(v.block) == veilBlock {
			if err := v.put(); err != nil {
				return n, err
			}
		}
		k := min(len(p), veilBlock-len(v.block))
		v.block = append(v.block, p[:k]...)
		v.size += int64(k)
		n, p = n+k, p[k:]
	}
	return n, nil
}

// put writes the block that is complete, or the last one.
func (v *veil) put() error {
	if v.head == nil {
		v.head = v.block
		v.block = make([]byte, 0, veilBlock+veilTag)
		return nil
	}
	if err := v.clear(); err != nil {
		return err
	}
	n, i := len(v.block), len(v.tags)+1
	sealed := v.aead.Seal(v.block[:0], nonce(i), v.block, nil)
	v.tags = append(v.tags, [veilTag]byte(sealed[n:]))
	v.block = v.block[:0]
	_, err := v.disk.WriteAt(sealed[:n], int64(i)*veilBlock)
	return err
}

// lift makes the image readable. The caller has verified it.
func (v *veil) lift(ctx context.Context, lifted func(done, total int64)) error {
	if err := errors.Join(v.put(), v.clear()); err != nil {
		return err
	}
	progress := &counter{total: v.size, tell: lifted}
	blocks := len(v.tags) + 1
	tail := max(1, blocks-2)
	for _, part := range [][2]int{{1, tail}, {tail, blocks}, {0, 1}} {
		for i := part[0]; i < part[1]; i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			plain, err := v.open(i)
			if err != nil {
				return err
			}
			if _, err := v.disk.WriteAt(plain, int64(i)*veilBlock); err != nil {
				return err
			}
			_, _ = progress.Write(plain)
		}
		if err := v.disk.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// open returns what block i was when it was written.
func (v *veil) open(i int) ([]byte, error) {
	if i == 0 {
		return v.head, nil
	}
	at := int64(i) * veilBlock
	sealed := v.block[:min(veilBlock, v.size-at)]
	if _, err := v.disk.ReadAt(sealed, at); err != nil {
		return nil, err
	}
	plain, err := v.aead.Open(sealed[:0], nonce(i), append(sealed, v.tags[i-1][:]...), nil)
	if err != nil {
		return nil, errForgetful(v.disk)
	}
	return plain, nil
}

// clear takes away what the disk held, before anything is written.
func (v *veil) clear() error {
	if v.cleared {
		return nil
	}
	v.touched = true
	err := v.wipe(veilBlock, v.room)
	v.cleared = err == nil
	return err
}

// abandon is the end of an image that was refused, or could not be written.
func (v *veil) abandon() error {
	if !v.touched {
		return nil
	}
	return v.wipe(veilBlock, v.room, v.size)
}

// wipe zeroes the MiB before each of these bytes.
func (v *veil) wipe(ends ...int64) error {
	for _, end := range ends {
		end = min(end, v.room)
		begin := max(0, end-veilBlock)
		if _, err := v.disk.WriteAt(make([]byte, end-begin), begin); err != nil {
			return fmt.Errorf("wipe the ends of disk %s: %w", v.disk.Name(), err)
		}
	}
	return v.disk.Sync()
}

func nonce(block int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(block))
}

func errForgetful(disk medium) error {
	return fmt.Errorf("%s does not give back what was written to it: replace the disk", disk.Name())
}
