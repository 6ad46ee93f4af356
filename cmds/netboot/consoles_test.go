package main

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealboot/sealboot/boot/machine/console"
)

// TestConsoles has one console that takes nothing: the other one still gets all,
// and no one waits for ever.
func TestConsoles(t *testing.T) {
	var c consoles
	end := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		c = append(c, terminal{console.NewRelay(w), w})
		return r
	}
	end() // no one reads it
	screen := bufio.NewReader(end())
	const lines = 100 // more than a pipe holds
	go func() {
		for range lines {
			c.Write([]byte(strings.Repeat("x", 2047) + "\n"))
		}
	}()
	for range lines {
		if line, err := screen.ReadString('\n'); len(line) != 2048 || err != nil {
			t.Fatalf("read %d bytes, %v", len(line), err)
		}
	}
	c.Drain(50 * time.Millisecond)
}
