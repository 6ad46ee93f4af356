package console

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestRelay(t *testing.T) {
	var out bytes.Buffer
	r := NewRelay(&out)
	for _, text := range []string{"one\n", "two\n", "three\n"} {
		if n, err := io.WriteString(r, text); n != len(text) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	r.Drain(time.Minute)
	if got := out.String(); got != "one\ntwo\nthree\n" {
		t.Errorf("it wrote %q", got)
	}
}

// TestRelayToBlocked has a console that takes nothing until somebody reads.
func TestRelayToBlocked(t *testing.T) {
	read, write := io.Pipe()
	r := NewRelay(write)
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 4 * relayRoom / 1024
	for range lines {
		if n, err := r.Write(line); n != len(line) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	r.Drain(20 * time.Millisecond) // gives up
	if r.idle() {
		t.Error("everything was written to a console that takes nothing")
	}
	var got bytes.Buffer
	for buf := make([]byte, 64<<10); !bytes.Contains(got.Bytes(), []byte("dropped while this console was blocked)\n")); {
		n, err := read.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:n])
	}
	for text := range strings.Lines(got.String()) {
		if strings.HasPrefix(text, "x") && text != string(line) {
			t.Errorf("a line of %d bytes: it was cut", len(text))
		}
	}
	// What was being written when there was no more room comes on top.
	if n := strings.Count(got.String(), string(line)); n < relayRoom/len(line) || n > 2*relayRoom/len(line) {
		t.Errorf("%d lines came through, want those that there is room for: %d", n, relayRoom/len(line))
	}
}
