package fetch

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealboot/sealboot/boot/base/regular"
)

// What a power cut may cost of a partial: markEvery bytes of the prefix, or what
// came of it in markTime, and keepAhead bytes behind the prefix, which are not in
// the cache before what is missing in front of them has come.
const (
	markEvery = 8 << 20
	markTime  = time.Minute
	keepAhead = 16 << 20
)

// maxMarks bounds the size of a marks file that is read, in bytes.
const maxMarks = 4 << 20

// maxFiles bounds how many files of a cache are looked at, and removed, to make room: somebody may have made millions.
const maxFiles = 4096

// Cache keeps blobs in a directory, for the next boot. Three names belong to a
// blob, all made from its digest:
//
//	sha256-HEX        the complete blob
//	sha256-HEX.part   its first bytes
//	sha256-HEX.marks  lines "OFFSET SHA256-OF-THE-BYTES-BEFORE-IT"
//
// or the same with sha512.
//
// A mark is written after the bytes before it were synced. A partial is
// hashed again when it is used, and trusted up to the last mark that agrees:
// that finds what a power cut left unwritten. What somebody changed on purpose is
// found by the blob's digest, and then costs a new download.
//
// A nil *Cache keeps nothing.
type Cache struct {
	dir *os.Root

	room    sync.Mutex
	mu      sync.Mutex
	busy    map[string]bool // names that a transfer is using
	shunned map[string]bool // names whose files are wrong and cannot be removed
}

// OpenCache uses the directory dir, which must exist and have no other use:
// the oldest files in it are removed when there is no room.
func OpenCache(dir string) (*Cache, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the download cache: %w", err)
	}
	return &Cache{dir: root, busy: make(map[string]bool), shunned: make(map[string]bool)}, nil
}

// Close releases the directory.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	return c.dir.Close()
}

func cacheName(b Blob) string { return b.Digest.Algorithm().String() + "-" + b.Digest.Encoded() }

// ahead is the bound for a plan.
func (c *Cache) ahead() int64 {
	if c == nil {
		return 0
	}
	return keepAhead
}

// load fills p with what the cache has of it. Only ctx makes it fail.
func (c *Cache) load(ctx context.Context, p *partial, warn func(error)) error {
	if c == nil {
		return nil
	}
	name := cacheName(p.blob)
	if c.shuns(name) {
		return nil
	}
	if err := c.replay(ctx, p, name, nil); err == nil && p.complete() && p.verify() {
		c.finish(p, warn)
		return nil
	} else if ctx.Err() != nil {
		return context.Cause(ctx)
	} else if !errors.Is(err, fs.ErrNotExist) {
		warn(fmt.Errorf("download cache: dropping %s: %w", name, errors.Join(ErrDigest, err)))
		warnIf(warn, c.dir.Remove(name))
	}
	p.reset()
	marks, err := c.marks(name)
	if err == nil {
		err = c.replay(ctx, p, name+".part", marks)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		warn(fmt.Errorf("download cache: %s.part: %w", name, err))
	}
	return context.Cause(ctx)
}

// shun has the files of a blob read no more: what is wrong and cannot be removed, from a volume that became read-only
// or a file that was made immutable, would be taken for the blob again and again.
func (c *Cache) shun(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shunned[name] = true
}

func (c *Cache) shuns(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shunned[name]
}

// open opens a file to be read.
func (c *Cache) open(name string) (*os.File, error) {
	return regular.Open(c.dir, name, os.O_RDONLY, 0)
}

// create opens a file to be written, in place of what is no file.
func (c *Cache) create(name string, flag int) (*os.File, error) {
	f, err := regular.Open(c.dir, name, flag|os.O_CREATE, 0o600)
	if err == nil {
		return f, nil
	}
	// A device is refused by the kernel, and a link that leads out by os.Root.
	if st, lerr := c.dir.Lstat(name); lerr != nil || st.Mode().IsRegular() {
		return nil, err
	}
	if err := c.dir.Remove(name); err != nil {
		return nil, err
	}
	return regular.Open(c.dir, name, flag|os.O_CREATE, 0o600)
}

type mark struct {
	offset int64
	sum    []byte // nil: not known
}

// marks reads the marks of a partial; the first line that makes no sense ends
// them. A mark takes back the earlier ones that are not before it.
func (c *Cache) marks(name string) ([]mark, error) {
	f, err := c.open(name + ".marks")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	marks := []mark{}
	s := bufio.NewScanner(io.LimitReader(f, maxMarks))
	for s.Scan() {
		offset, sum, _ := strings.Cut(s.Text(), " ")
		n, err := strconv.ParseInt(offset, 10, 64)
		raw, err2 := hex.DecodeString(sum)
		if err != nil || err2 != nil || n <= 0 || len(raw) < sha256.Size {
			break
		}
		for len(marks) > 0 && marks[len(marks)-1].offset >= n {
			marks = marks[:len(marks)-1]
		}
		marks = append(marks, mark{n, raw})
	}
	return marks, nil
}

// keepMarks takes back all marks but these.
func (c *Cache) keepMarks(name string, marks []mark) error {
	var text bytes.Buffer
	for _, m := range marks {
		fmt.Fprintf(&text, "%d %x\n", m.offset, m.sum)
	}
	if err := c.dir.WriteFile(name+".marks", text.Bytes(), 0o600); err != nil {
		return errors.Join(err, c.dir.Remove(name+".marks"))
	}
	return nil
}

// replay copies a cached file into p while hashing it: up to the last of marks
// that agrees, or without marks to its end.
func (c *Cache) replay(ctx context.Context, p *partial, name string, marks []mark) error {
	f, err := c.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if marks == nil {
		marks = []mark{{offset: p.blob.Size}}
	}
	h, buf := p.blob.hash(), make([]byte, bufSize)
	var pos int64
	for _, m := range marks {
		for pos < m.offset && m.offset <= p.blob.Size && ctx.Err() == nil {
			n, err := f.Read(buf[:min(int64(len(buf)), m.offset-pos)])
			if n == 0 && err != nil {
				return cut(err)
			}
			h.Write(buf[:n])
			if _, err := p.file.WriteAt(buf[:n], pos); err != nil {
				return err
			}
			pos += int64(n)
		}
		if pos != m.offset || m.sum != nil && !bytes.Equal(h.Sum(nil), m.sum) {
			return nil
		}
		if err := p.adopt(pos, h); err != nil {
			return err
		}
	}
	return nil
}

// stream passes on what the cache has of p: all of a complete blob, else a
// partial up to its last mark. The error is errAgain if it was wrong about what
// was already passed on; it is so about no mark twice.
func (c *Cache) stream(ctx context.Context, p *partial, warn func(error)) error {
	if c == nil {
		return nil
	}
	name, marks := cacheName(p.blob), []mark{{offset: p.blob.Size}}
	if c.shuns(name) {
		return nil
	}
	f, err := c.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if marks, err = c.marks(name); err == nil {
			f, err = c.open(name + ".part")
		}
	}
	if err != nil {
		warnIf(warn, err)
		return nil
	}
	defer f.Close()
	buf := make([]byte, bufSize)
	for i, m := range marks {
		for p.hashed < m.offset && m.offset <= p.blob.Size && ctx.Err() == nil {
			n, rerr := f.Read(buf[:min(int64(len(buf)), m.offset-p.hashed)])
			if err := p.update(buf[:n], nil); err != nil {
				return err
			}
			if n == 0 && rerr != nil {
				warn(fmt.Errorf("download cache: %s: %w", name, cut(rerr)))
				break
			}
		}
		if p.hashed != m.offset {
			break
		}
		if m.sum != nil && !bytes.Equal(p.hash.Sum(nil), m.sum) {
			warn(fmt.Errorf("download cache: %s: %w before byte %d", name, ErrDigest, m.offset))
			if err := c.keepMarks(name, marks[:i]); err != nil {
				warnIf(warn, err)
				c.shun(name)
			}
			return errAgain
		}
	}
	if p.hashed > 0 {
		p.plan = newPlan(p.hashed, p.blob.Size, p.ahead)
		p.plan.open(p.hashed - p.hashed%streamStep + streamWindow)
		p.senders = []int{fromCache}
	}
	return context.Cause(ctx)
}

// adopt makes the first n bytes of the file, hashed by h, the received ones.
func (p *partial) adopt(n int64, h hash.Hash) error {
	clone, err := h.(hash.Cloner).Clone()
	if err != nil {
		return err
	}
	p.plan = newPlan(n, p.blob.Size, p.ahead)
	p.hash, p.hashed = clone, n
	p.senders = []int{fromCache}
	return nil
}

// Forget removes what there is of b, which must not be in use.
func (c *Cache) Forget(b Blob) error {
	if c == nil {
		return nil
	}
	var first error
	c.drop(b, func(err error) { first = cmp.Or(first, err) })
	return first
}

// drop forgets everything about b.
func (c *Cache) drop(b Blob, warn func(error)) {
	if c == nil {
		return
	}
	name := cacheName(b)
	for _, suffix := range []string{"", ".part", ".marks"} {
		if err := c.dir.Remove(name + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			warnIf(warn, err)
			c.shun(name)
		}
	}
}

// finish turns the partial of a verified blob into the complete file.
func (c *Cache) finish(p *partial, warn func(error)) {
	if c == nil {
		return
	}
	name := cacheName(p.blob)
	st, err := c.dir.Stat(name + ".part")
	if errors.Is(err, fs.ErrNotExist) { // it has been complete before, or could not be kept
		warnIf(warn, c.dir.Remove(name+".marks"))
		return
	}
	if err != nil || st.Size() != p.blob.Size {
		return
	}
	// Its bytes were synced when the writer was closed.
	if err := c.dir.Rename(name+".part", name); err != nil {
		warnIf(warn, err)
		return
	}
	warnIf(warn, c.dir.Remove(name+".marks"))
	warnIf(warn, c.sync())
}

// sync makes names durable.
func (c *Cache) sync() error {
	d, err := c.dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func warnIf(warn func(error), err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		warn(fmt.Errorf("download cache: %w", err))
	}
}

// makeRoom removes the oldest files until need bytes are free.
func (c *Cache) makeRoom(need int64) error {
	c.room.Lock() // or several would remove more than is needed
	defer c.room.Unlock()
	for n := 0; ; n++ {
		free, err := c.free()
		if err != nil {
			return err
		}
		if free >= need {
			return nil
		}
		oldest, err := c.oldest()
		if err != nil {
			return err
		}
		if oldest == "" || n == maxFiles {
			return fmt.Errorf("no room: %.1f MiB needed, %.1f MiB free", mib(need), mib(free))
		}
		if err := c.dir.Remove(oldest); err != nil {
			return err
		}
	}
}

func (c *Cache) free() (int64, error) {
	d, err := c.dir.Open(".")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("statfs", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// oldest is the name of the least recently written file that no transfer uses.
func (c *Cache) oldest() (string, error) {
	d, err := c.dir.Open(".")
	if err != nil {
		return "", err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxFiles)
	if err != nil && err != io.EOF {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var name string
	var when int64
	for _, e := range entries {
		base, _, _ := strings.Cut(e.Name(), ".")
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(base, "sha") || c.busy[base] {
			continue
		}
		if t := info.ModTime().UnixNano(); name == "" || t < when {
			name, when = e.Name(), t
		}
	}
	return name, nil
}
