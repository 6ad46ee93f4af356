package unpack

import (
	"io"
	"strings"
	"testing"
)

type bomb struct{}

func (bomb) Read([]byte) (int, error) { panic("index out of range") }

// TestReadAheadPanic has a decompressor that panics: that is an error of the
// reader, as anything else that an image does.
func TestReadAheadPanic(t *testing.T) {
	r := readAhead(io.MultiReader(strings.NewReader("the beginning"), bomb{}))
	defer r.Close()
	b, err := io.ReadAll(r)
	if err == nil || !strings.Contains(err.Error(), "index out of range") || string(b) != "the beginning" {
		t.Errorf("read %q, %v; want the beginning and an error", b, err)
	}
}
