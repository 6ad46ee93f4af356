// Package memtest looks for secrets in the memory of a test's own process: what a buffer keeps that no one refers to is
// found too, since Go clears memory when it is used again and not before.
package memtest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	mask  = 0xa5
	chunk = 1 << 20
	// The race detector's own mappings are larger than this, Go's heap is not.
	maxMapping = 1 << 30
)

// Needle is a secret in a form that is not found itself.
type Needle struct{ masked []byte }

// New takes a secret of at least 16 bytes. It leaves no copy.
func New(secret []byte) *Needle {
	if len(secret) < 16 {
		panic("memtest: too short to be told from noise")
	}
	n := &Needle{make([]byte, len(secret))}
	for i, c := range secret {
		n.masked[i] = c ^ mask
	}
	return n
}

// Count returns how many times the secret is in this process's anonymous memory, which is all heap and stacks.
func (n *Needle) Count(t testing.TB) (found int) {
	t.Helper()
	// What is read must not become a copy that is found: the buffer is left out.
	buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf) //nolint:errcheck // it goes with the test
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	regions := 0
	for _, r := range writable(t, buf) {
		regions++
		for at := r[0]; at < r[1]; at += chunk - uint64(len(n.masked)) + 1 {
			part := buf[:min(chunk, r[1]-at)]
			if _, err := mem.ReadAt(part, int64(at)); err != nil {
				t.Fatalf("read memory at %x: %v", at, err)
			}
			found += n.in(part)
		}
	}
	if regions == 0 {
		t.Fatal("no memory was found")
	}
	return found
}

func (n *Needle) in(b []byte) (found int) {
	for len(b) >= len(n.masked) {
		i := bytes.IndexByte(b[:len(b)-len(n.masked)+1], n.masked[0]^mask)
		if i < 0 {
			break
		}
		if n.at(b[i:]) {
			found++
		}
		b = b[i+1:]
	}
	return found
}

func (n *Needle) at(b []byte) bool {
	for i, c := range n.masked {
		if b[i]^mask != c {
			return false
		}
	}
	return true
}

// writable returns beginning and end of the anonymous mappings that can be written, but not the one of buf.
func writable(t testing.TB, buf []byte) (out [][2]uint64) {
	t.Helper()
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	own := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
	s := bufio.NewScanner(f)
	for s.Scan() {
		var begin, end, offset, inode uint64
		var mode, device string
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s %x %s %d", &begin, &end, &mode, &offset, &device, &inode); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		if !strings.HasPrefix(mode, "rw") || inode != 0 || end-begin > maxMapping {
			continue
		}
		// The kernel joins neighbours, so buf may be a part of a mapping.
		if begin <= own && own < end {
			out = append(out, [2]uint64{begin, own}, [2]uint64{own + chunk, end})
			continue
		}
		out = append(out, [2]uint64{begin, end})
	}
	return out
}
