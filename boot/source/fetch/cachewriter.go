package fetch

import (
	"errors"
	"fmt"
	"hash"
	"os"
	"time"
)

// cacheWriter appends a partial's hashed prefix to the cache. Its first error
// ends it: a bad disk must not end a boot. A nil *cacheWriter does nothing.
type cacheWriter struct {
	cache  *Cache
	part   *partial
	warn   func(error)
	data   *os.File
	marks  *os.File
	pos    int64
	marked int64
	when   time.Time // the last mark was set
}

// writer continues the cached copy of p at the byte that is hashed next.
func (c *Cache) writer(p *partial, warn func(error)) *cacheWriter {
	if c == nil || p.complete() {
		return nil
	}
	name := cacheName(p.blob)
	if c.shuns(name) {
		return nil
	}
	c.mu.Lock()
	c.busy[name] = true
	c.mu.Unlock()
	w := &cacheWriter{cache: c, part: p, warn: warn, pos: p.hashed, marked: p.hashed, when: time.Now()}
	if err := w.open(name); err != nil {
		w.fail(err)
	}
	return w
}

func (w *cacheWriter) open(name string) (err error) {
	if err := w.cache.makeRoom(w.part.blob.Size - w.pos + 1<<20); err != nil {
		return err
	}
	if w.data, err = w.cache.create(name+".part", os.O_RDWR); err != nil {
		return err
	}
	st, err := w.data.Stat()
	if err != nil {
		return err
	}
	flag := os.O_WRONLY | os.O_APPEND
	if st.Size() < w.pos || w.pos == 0 {
		// Nothing of use is there, but what is in memory can be written again.
		flag |= os.O_TRUNC
		w.pos, w.marked = 0, 0
	}
	if w.marks, err = w.cache.create(name+".marks", flag); err != nil {
		return err
	}
	if w.pos < w.part.forgot {
		return fmt.Errorf("the first %d bytes are neither there nor in memory any more", w.part.forgot)
	}
	if err := w.data.Truncate(w.pos); err != nil {
		return err
	}
	if err := w.catchUp(); err != nil {
		return err
	}
	if w.pos > 0 {
		w.mark(w.part.hash)
	}
	return nil
}

// catchUp writes what was hashed before the writer was opened.
func (w *cacheWriter) catchUp() error {
	buf := make([]byte, bufSize)
	for w.pos < w.part.hashed {
		n, err := w.part.file.ReadAt(buf[:min(int64(len(buf)), w.part.hashed-w.pos)], w.pos)
		if n == 0 && err != nil {
			return err
		}
		if _, err := w.data.WriteAt(buf[:n], w.pos); err != nil {
			return err
		}
		w.pos += int64(n)
	}
	return nil
}

// write appends b; h is the hash of everything up to its end.
func (w *cacheWriter) write(b []byte, h hash.Hash) {
	if w == nil || w.data == nil {
		return
	}
	if _, err := w.data.WriteAt(b, w.pos); err != nil {
		w.fail(err)
		return
	}
	if w.pos += int64(len(b)); w.pos-w.marked >= markEvery || time.Since(w.when) >= markTime {
		w.mark(h)
	}
}

// mark makes what was written durable, and then says so.
func (w *cacheWriter) mark(h hash.Hash) {
	if err := w.data.Sync(); err != nil {
		w.fail(err)
		return
	}
	if _, err := fmt.Fprintf(w.marks, "%d %x\n", w.pos, h.Sum(nil)); err != nil {
		w.fail(err)
		return
	}
	if err := w.marks.Sync(); err != nil {
		w.fail(err)
		return
	}
	w.marked, w.when = w.pos, time.Now()
}

// fail gives the cached copy up and the transfer goes on without.
func (w *cacheWriter) fail(err error) {
	w.warn(fmt.Errorf("download cache: %w: going on without", err))
	_ = w.closeFiles() // the first error is the one that tells something
	w.cache.drop(w.part.blob, w.warn)
}

func (w *cacheWriter) closeFiles() error {
	var errs []error
	for _, f := range []**os.File{&w.data, &w.marks} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// close makes everything written durable.
func (w *cacheWriter) close() {
	if w == nil {
		return
	}
	if w.data != nil && w.pos > w.marked {
		w.mark(w.part.hash)
	}
	if err := w.closeFiles(); err != nil {
		w.warn(fmt.Errorf("download cache: %w", err))
	}
	w.cache.mu.Lock()
	delete(w.cache.busy, cacheName(w.part.blob))
	w.cache.mu.Unlock()
}
