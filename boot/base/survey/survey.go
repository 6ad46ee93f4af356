// Package survey looks through a medium that anybody may have written: the names in its directories, the headers of its tar
// files, the small files in search of an image.
//
// Each of those is cheap, and a medium can have any number of them: 500,000 names in a directory took 274 MiB, and an image
// index with 4,096 manifests 430 s. So one [Budget] goes through a whole search, over all directories and files of a medium,
// and the search ends when it is used up or its context is done. What a search keeps is bounded by what it may look at.
package survey

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// ErrTooMuch is wrapped by the error when a budget is used up.
var ErrTooMuch = errors.New("too much to look through on this medium")

// What a new budget has.
const (
	maxNames = 1 << 16
	maxBytes = 64 << 20
)

// MaxStrangers is how many entries a tar file may have that are no part of what is searched for. One with more is
// something else, a backup say, and is passed over before it has used up the budget.
const MaxStrangers = 1 << 10

const (
	maxName = 4096 // bytes of a name in a tar file
	batch   = 256  // names that are read from a directory at once
	block   = 512  // bytes of a tar file's header
)

// Budget is what one search may still look at. It is safe for concurrent use.
type Budget struct {
	mu    sync.Mutex
	names int
	bytes int64
}

// NewBudget returns what one search of a medium may use: 65,536 names, of files in directories and in tar files, and 64 MiB
// to read.
func NewBudget() *Budget { return &Budget{names: maxNames, bytes: maxBytes} }

// Spend takes names and bytes before they are read or kept. The error is [ErrTooMuch], or why ctx is done.
func (b *Budget) Spend(ctx context.Context, names int, bytes int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case names > b.names:
		return fmt.Errorf("%w: more than %d names; remove files from it", ErrTooMuch, maxNames)
	case bytes > b.bytes:
		return fmt.Errorf("%w: more than %d MiB of lists and manifests; remove images from it, or name one by its digest", ErrTooMuch, maxBytes>>20)
	}
	b.names -= names
	b.bytes -= bytes
	return nil
}

// Directory calls visit for every name in root, in no order.
func (b *Budget) Directory(ctx context.Context, root *os.Root, visit func(fs.DirEntry) error) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(batch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := b.Spend(ctx, len(entries), 0); err != nil {
			return err
		}
		for _, e := range entries {
			if err := visit(e); err != nil {
				return err
			}
		}
	}
}

// Tar calls visit for every entry of the tar file that has size bytes, with the offset of its content. Contents are
// skipped. An error that is neither of visit nor [ErrTooMuch] nor of ctx is of a malformed file.
func (b *Budget) Tar(ctx context.Context, file io.ReaderAt, size int64, visit func(h *tar.Header, offset int64) error) error {
	in := &headers{io.NewSectionReader(file, 0, size), ctx, b}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(h.Name) > maxName {
			return fmt.Errorf("%w: a name of %d bytes in a tar file", ErrTooMuch, len(h.Name))
		}
		if err := b.Spend(ctx, 1, 0); err != nil {
			return err
		}
		offset, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if err := visit(h, offset); err != nil {
			return err
		}
	}
}

// headers spends what is read of a tar file. Contents are skipped by seeking, so that is headers.
type headers struct {
	*io.SectionReader
	ctx    context.Context
	budget *Budget
}

func (r *headers) Read(p []byte) (int, error) {
	if err := r.budget.Spend(r.ctx, 0, int64(min(len(p), block))); err != nil {
		return 0, err
	}
	return r.SectionReader.Read(p[:min(len(p), block)])
}
