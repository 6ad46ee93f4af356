package heaptest

import (
	"runtime"
	"testing"
)

// recorder is a test that notes whether it was failed.
type recorder struct {
	testing.TB
	failed int
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.failed++ }

// TestBound: what is too much fails the test that asks, and what is just enough does not.
func TestBound(t *testing.T) {
	skip(t)
	const size = 1 << 20
	var kept []byte
	allocate := func() { kept = make([]byte, 8*size) }
	for name, measure := range map[string]func(Bound, *recorder){
		"Total":   func(b Bound, r *recorder) { b.Total(r, "", size, allocate) },
		"Peak":    func(b Bound, r *recorder) { b.Peak(r, "", size, allocate) },
		"JSON":    func(b Bound, r *recorder) { b.JSON(r, `{"a":%s}`, size, func([]byte) { allocate() }) },
		"Mutated": func(b Bound, r *recorder) { b.Mutated(r, "", []byte("abc"), size, func([]byte) { allocate() }) },
	} {
		enough, little := &recorder{TB: t}, &recorder{TB: t}
		measure(Bound{Fixed: 16 << 20}, enough)
		kept = nil
		measure(Bound{PerByte: 2}, little)
		kept = nil
		if enough.failed != 0 || little.failed == 0 {
			t.Errorf("%s: failed %d times with enough, %d with too little", name, enough.failed, little.failed)
		}
	}
	runtime.KeepAlive(kept)
}
