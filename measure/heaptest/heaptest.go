// Package heaptest is for tests that bound what a parser does to the heap by the size of its input.
//
// A machine that boots has no swap, and the process that reads a hostile document is the one that must live on. So each
// parser that unverified bytes can reach has a test with the worst documents somebody can make for it, and a [Bound].
// A test that uses this must not run in parallel with others: the heap belongs to the whole program. Under the race
// detector it is skipped, since that changes what is allocated and takes minutes.
package heaptest

import (
	"bytes"
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"
)

// A Bound says how many bytes a parser may take for an input: some at any rate, and some for each byte of it.
type Bound struct{ Fixed, PerByte uint64 }

func (b Bound) of(size int) uint64 { return b.Fixed + b.PerByte*uint64(size) }

// Total fails the test if f, which parses size bytes, allocates more than the bound. What was freed meanwhile counts
// too, so the same input gives the same figure: this is the one to take where nothing is streamed.
func (b Bound) Total(t testing.TB, name string, size int, f func()) {
	t.Helper()
	skip(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	b.check(t, name, "allocated", size, after.TotalAlloc-before.TotalAlloc)
}

// Peak fails the test if what is alive on the heap grows by more than the bound while f parses size bytes. It goes by
// what a collector found that runs often, so it can miss a short peak and never counts garbage.
func (b Bound) Peak(t testing.TB, name string, size int, f func()) {
	t.Helper()
	skip(t)
	defer debug.SetGCPercent(debug.SetGCPercent(25))
	runtime.GC()
	before, peak := live(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak = max(peak, live())
			case <-stop:
				return
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	runtime.GC()
	peak = max(peak, live())
	b.check(t, name, "held", size, peak-min(before, peak))
}

func skip(t testing.TB) {
	t.Helper()
	if race {
		t.Skip("the race detector allocates too")
	}
}

func (b Bound) check(t testing.TB, name, what string, size int, used uint64) {
	t.Helper()
	if used > b.of(size) {
		t.Errorf("%s: %d KiB %s for an input of %d KiB, allowed are %d KiB", name, used>>10, what, size>>10, b.of(size)>>10)
	}
}

// live is how many bytes of the heap the last collection found in use.
func live() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// items are what a hostile list is full of: little to write, much to keep.
var items = map[string]string{
	"objects":      `{}`,
	"arrays":       `[]`,
	"strings":      `""`,
	"numbers":      `0`,
	"nulls":        `null`,
	"members":      `{"a":{},"b":[]}`,
	"empty arrays": `[[],[],[]]`,
}

// JSON calls parse with documents of about size bytes and of less, each a value of one hostile kind in the place of the
// one %s of form, and checks what it allocates in all. Parse may refuse them: of the smaller ones it takes some.
func (b Bound) JSON(t testing.TB, form string, size int, parse func(raw []byte)) {
	t.Helper()
	for _, part := range []int{1, 8, 32, 128, 512} {
		b.json(t, form, size/part, parse)
	}
}

func (b Bound) json(t testing.TB, form string, size int, parse func(raw []byte)) {
	t.Helper()
	head, tail, ok := strings.Cut(form, "%s")
	if !ok {
		t.Fatalf("%s has no place for a value", form)
	}
	room := max(size-len(form), 16)
	values := map[string]string{
		"a long string":  `"` + strings.Repeat("x", room) + `"`,
		"escapes":        `"` + strings.Repeat(`\n`, room/2) + `"`,
		"a long number":  strings.Repeat("1", room),
		"nested arrays":  strings.Repeat("[", room/2) + strings.Repeat("]", room/2),
		"nested objects": strings.Repeat(`{"":`, room/5) + "0" + strings.Repeat("}", room/5),
		"not closed":     strings.Repeat("[", room),
		"members":        object(room),
		"one name":       "{" + strings.TrimSuffix(strings.Repeat(`"a":{},`, room/7), ",") + "}",
	}
	for name, item := range items {
		values["a list of "+name] = "[" + strings.TrimSuffix(strings.Repeat(item+",", room/(len(item)+1)), ",") + "]"
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		raw := []byte(head + values[name] + tail)
		b.Total(t, name+" in "+form, len(raw), func() { parse(raw) })
	}
}

// object has as many different members as fit.
func object(size int) string {
	var s strings.Builder
	s.WriteString(`{"":0`)
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	for i := 0; s.Len() < size-12; i++ {
		s.WriteString(`,"`)
		for n := i; ; n /= len(digits) {
			s.WriteByte(digits[n%len(digits)])
			if n < len(digits) {
				break
			}
		}
		s.WriteString(`":0`)
	}
	return s.String() + "}"
}

// Mutated calls parse with a valid input and with what becomes of it when a length in it lies: at each of up to 512
// places, one, two, four and eight bytes are all ones, or as large as a signed number can be. Last comes the input over
// and over, up to size bytes. It checks what each allocates in all.
func (b Bound) Mutated(t testing.TB, name string, valid []byte, size int, parse func(raw []byte)) {
	t.Helper()
	b.Total(t, name, len(valid), func() { parse(valid) })
	for at := 0; at < len(valid); at += len(valid)/512 + 1 {
		for _, width := range []int{1, 2, 4, 8} {
			for _, signed := range []bool{false, true} {
				raw := slices.Clone(valid)
				end := min(at+width, len(raw))
				for i := at; i < end; i++ {
					raw[i] = 0xff
				}
				if signed { // in either byte order
					raw[at] = 0x7f
					raw[end-1] = 0x7f
				}
				b.Total(t, fmt.Sprintf("%s, %d bytes at %d", name, width, at), len(raw), func() { parse(raw) })
			}
		}
	}
	many := bytes.Repeat(valid, max(size/max(len(valid), 1), 1))
	b.Total(t, name+", over and over", len(many), func() { parse(many) })
}
