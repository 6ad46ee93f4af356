package unpack

import (
	"fmt"
	"io"
	"sync"
)

const (
	aheadBlocks = 4
	aheadSize   = 512 << 10 // bytes
)

// ahead reads from another goroutine, so that decompressing and writing go on
// at the same time.
type ahead struct {
	full  chan block
	empty chan []byte
	stop  chan struct{}
	once  sync.Once
	cur   block
	rest  []byte
}

type block struct {
	data []byte
	err  error
}

// readAhead returns a reader of r's bytes. Close it to end its goroutine.
func readAhead(r io.Reader) io.ReadCloser {
	a := &ahead{
		full:  make(chan block, aheadBlocks),
		empty: make(chan []byte, aheadBlocks),
		stop:  make(chan struct{}),
	}
	for range aheadBlocks {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		n, err := readFull(r, buf)
		a.full <- block{buf[:n], err} // there is room for every buffer
		if err != nil {
			return
		}
	}
}

// readFull fills buf as far as r goes. It makes an error of a panic: anyone who
// recovers from what a hostile image does to a decompressor does so in another
// goroutine, and would never see it.
func readFull(r io.Reader, buf []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a decompressor failed: %v", p)
		}
	}()
	for n < len(buf) && err == nil {
		var got int
		got, err = r.Read(buf[n:])
		n += got
	}
	return n, err
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.data != nil {
			a.empty <- a.cur.data[:aheadSize]
		}
		a.cur = <-a.full
		a.rest = a.cur.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	for range a.full {
	}
	return nil
}
