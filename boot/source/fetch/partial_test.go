package fetch

import (
	"bytes"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestTakeChunk hands the hash chunks as a busy machine does: some not at all,
// one twice, one before what is in front of it.
func TestTakeChunk(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4*bufSize/16)
	content[bufSize] = 'x' // chunks differ
	b := Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}
	p, err := newPartial(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.file.Close()
	c := p.plan.claim(b.Size)
	take := func(i int64) {
		t.Helper()
		buf := bufPool.Get().(*[]byte)
		n := copy(*buf, content[i*bufSize:])
		if err := p.takeChunk(chunk{i * bufSize, buf, n}, nil); err != nil {
			t.Fatal(err)
		}
	}
	arrive := func(n int64) {
		t.Helper()
		if _, err := p.file.WriteAt(content[c.pos:c.pos+n], c.pos); err != nil {
			t.Fatal(err)
		}
		p.plan.advance(c, n)
	}
	for _, step := range []struct {
		do   func()
		want int64 // chunks hashed
	}{
		{func() { take(2) }, 0},                  // nothing before it has arrived
		{func() { arrive(2 * bufSize) }, 0},      // no one offers them
		{func() { take(2) }, 3},                  // they are read from the file
		{func() { arrive(bufSize); take(2) }, 3}, // it was hashed
		{func() { take(3) }, 4},
	} {
		step.do()
		if p.hashed != step.want*bufSize {
			t.Fatalf("%d bytes are hashed, want %d", p.hashed, step.want*bufSize)
		}
	}
	if !p.verify() {
		t.Error("the digest is another")
	}
}
