package fetch

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/memfd"
)

// fromCache stands for the cache in the list of a partial's senders.
const fromCache = -1

// bufSize is how much is received, written and hashed at a time, in bytes:
// few system calls, and yet the processor's cache holds it from one to the next.
const bufSize = 256 << 10

// queued is how many chunks the hash may lag before it reads the file instead.
const queued = 32

var bufPool = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}

// partial is a blob on its way into memory.
type partial struct {
	blob     Blob
	ahead    int64 // see plan
	file     *os.File
	plan     *plan
	verified bool

	hash   hash.Hash // of the first hashed bytes
	hashed int64
	fresh  chan chunk

	out    io.Writer // gets what was hashed, which is then forgotten; nil keeps it
	forgot int64     // bytes at the beginning of the file that are no longer there

	mu      sync.Mutex
	senders []int // mirrors that sent bytes of it, or fromCache
}

func newPartial(b Blob, ahead int64) (*partial, error) {
	file, err := memfd.Create(b.Digest.Encoded()[:16])
	if err != nil {
		return nil, fmt.Errorf("allocating %d bytes: %w", b.Size, err)
	}
	if err := file.Truncate(b.Size); err != nil {
		return nil, errors.Join(fmt.Errorf("allocating %d bytes: %w", b.Size, err), file.Close())
	}
	p := &partial{blob: b, ahead: ahead, file: file}
	p.reset()
	return p, nil
}

// reset forgets what was received. The file keeps its pages: they are about
// to be overwritten.
func (p *partial) reset() {
	p.plan = newPlan(0, p.blob.Size, p.ahead)
	p.hash = p.blob.hash()
	p.hashed = 0
	p.fresh = make(chan chunk, queued)
	p.senders = nil
	if p.out != nil {
		p.forgot = 0
		p.plan.open(streamWindow)
	}
}

// have is the number of bytes received, wherever in the blob they are.
func (p *partial) have() int64 { return p.plan.have() }

func (p *partial) sentBy(mirror int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.senders, mirror) {
		p.senders = append(p.senders, mirror)
	}
}

// onlyFrom reports whether no other mirror than this one has sent anything.
func (p *partial) onlyFrom(mirror int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.senders, func(s int) bool { return s != mirror && s != fromCache })
}

// chunk is a buffer that has just been written to the file.
type chunk struct {
	pos int64
	buf *[]byte // from bufPool
	n   int
}

// offer hands a chunk to the hash, which then need not read it back from the
// file. It reports whether the hash took it, and gives the buffer back to the
// pool one day; if the hash is busy, it will read the file.
func (p *partial) offer(c chunk) bool {
	select {
	case p.fresh <- c:
		return true
	default:
		return false
	}
}

// follow hashes the growing prefix until it is the whole blob.
func (p *partial) follow(ctx context.Context, keep *cacheWriter) error {
	for p.hashed < p.blob.Size {
		select {
		case c := <-p.fresh:
			if err := p.takeChunk(c, keep); err != nil {
				return err
			}
			continue
		default:
		}
		if avail := p.plan.prefix(); p.hashed < avail {
			if err := p.readBack(min(avail, p.hashed+bufSize), keep); err != nil {
				return err
			}
			continue
		}
		select {
		case c := <-p.fresh:
			if err := p.takeChunk(c, keep); err != nil {
				return err
			}
		case <-p.plan.kick:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// takeChunk hashes c, after what the hash could not take of what is before it.
// A chunk from behind a gap is dropped: it is in the file.
func (p *partial) takeChunk(c chunk, keep *cacheWriter) error {
	defer bufPool.Put(c.buf)
	if c.pos > p.plan.prefix() {
		return nil
	}
	for p.hashed < c.pos {
		if err := p.readBack(min(c.pos, p.hashed+bufSize), keep); err != nil {
			return err
		}
	}
	if c.pos < p.hashed {
		return nil
	}
	return p.update((*c.buf)[:c.n], keep)
}

// readBack hashes the file's bytes up to end.
func (p *partial) readBack(end int64, keep *cacheWriter) error {
	buf := bufPool.Get().(*[]byte)
	defer bufPool.Put(buf)
	n, err := p.file.ReadAt((*buf)[:end-p.hashed], p.hashed)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return p.update((*buf)[:n], keep)
}

// update hashes b, which comes next, and passes it on.
func (p *partial) update(b []byte, keep *cacheWriter) error {
	p.hash.Write(b)
	p.hashed += int64(len(b))
	keep.write(b, p.hash)
	if p.out == nil {
		return nil
	}
	if _, err := p.out.Write(b); err != nil {
		return err
	}
	if err := p.forget(); err != nil {
		return err
	}
	p.plan.open(p.hashed - p.hashed%streamStep + streamWindow)
	return nil
}

// forget frees the memory of what was passed on, in pieces of some pages.
func (p *partial) forget() error {
	n := p.hashed - p.hashed%bufSize - p.forgot
	if n == 0 {
		return nil
	}
	err := unix.Fallocate(int(p.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, p.forgot, n)
	if err != nil {
		return fmt.Errorf("freeing what was passed on: %w", os.NewSyscallError("fallocate", err))
	}
	p.forgot += n
	return nil
}

// complete reports whether every byte has been received and hashed.
func (p *partial) complete() bool { return p.hashed == p.blob.Size }

// verify compares the digest of a complete partial.
func (p *partial) verify() bool {
	want, err := hex.DecodeString(p.blob.Digest.Encoded())
	p.verified = err == nil && p.complete() && bytes.Equal(p.hash.Sum(nil), want)
	return p.verified
}

// publish gives the file of a verified partial away, read-only.
func (p *partial) publish() (*os.File, error) {
	if !p.verified {
		return nil, fmt.Errorf("%w: not verified", ErrDigest)
	}
	// kexec_file_load refuses a file that anybody holds open for writing.
	r, err := memfd.Reopen(p.file, os.O_RDONLY)
	return r, errors.Join(err, p.file.Close())
}
